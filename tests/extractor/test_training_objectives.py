from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extractor import efficientnet_lite, registry
from extractor.configuration import DelgConfiguration, LiteBackboneConfiguration
from extractor.delg import Delg
from extractor.photo import Photo
from extractor.pooling import gem
from extractor.training.delf_training import AttentionTraining, Classification
from extractor.training.delg_training import JointTraining
from extractor.training.objective import Objective
from extractor.training.optimisation import create_optimiser, scheduled, set_rates
from extractor.training.settings import Settings
from extractor.training.trunk import Trunk, lite_trunk
from extractor.weights import StoredWeights

_DELG = registry.EXTRACTORS["delg-lite0"]
assert isinstance(_DELG, DelgConfiguration)
DELG = _DELG
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def trunk() -> Trunk:
    torch.manual_seed(0)
    return lite_trunk(0)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


def test_gradient_stop(trunk: Trunk) -> None:
    joint = JointTraining(trunk, DELG, 3).train()
    losses = joint.losses(PIXELS, LABELS)
    (losses["attention"] + losses["reconstruction"]).backward(retain_graph=True)
    assert gradients(trunk) == {}, "the local losses do not reach the backbone"
    assert gradients(joint.heads.whitening) == {}
    for part in (joint.heads.attention, joint.heads.encoder, joint.decoder, joint.classifier):
        assert gradients(part)
    joint.zero_grad()
    losses["arcface"].backward()
    assert len(gradients(trunk)) > 100, "the global loss does"
    assert gradients(joint.heads.whitening)
    assert gradients(joint.arcface)
    for part in (joint.heads.attention, joint.heads.encoder, joint.decoder, joint.classifier):
        assert gradients(part) == {}


def test_joint_losses_step_by_step(trunk: Trunk) -> None:
    joint = JointTraining(trunk, DELG, 3).eval()
    features, whole = trunk.maps(PIXELS, ["stage5", "head"])
    heads = joint.heads
    losses = joint.losses(PIXELS, LABELS)
    pooled = functional.linear(gem(whole, 3.0), heads.whitening.weight, heads.whitening.bias)
    cosines = functional.cosine_similarity(pooled[:, None], joint.arcface.centres[None], dim=2)
    angles = cosines.acos()
    angles[torch.arange(4), LABELS] += 0.1
    logits = joint.arcface.scale * angles.cos()
    expected = -logits.log_softmax(1)[torch.arange(4), LABELS].mean()
    assert losses["arcface"].item() == pytest.approx(expected.item(), rel=1e-4)
    code = torch.einsum("bchw,dc->bdhw", features, heads.encoder.weight[:, :, 0, 0])
    code = code + heads.encoder.bias[None, :, None, None]
    rebuilt = torch.einsum("bdhw,cd->bchw", code, joint.decoder.weight[:, :, 0, 0])  # type: ignore[index]
    rebuilt = rebuilt + joint.decoder.bias[None, :, None, None]  # type: ignore[index]
    assert losses["reconstruction"].item() == pytest.approx(
        (rebuilt - features).square().mean().item(), rel=1e-4
    )
    scores = heads.attention(features)
    unit = rebuilt / rebuilt.square().sum(1, keepdim=True).sqrt()
    weighted = math.sqrt(112) * torch.einsum("bchw,bhw->bc", unit, scores) / (4 * 4)
    logits = joint.classifier(weighted)
    expected = -logits.log_softmax(1)[torch.arange(4), LABELS].mean()
    assert losses["attention"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_classification_loss(trunk: Trunk) -> None:
    stage = Classification(trunk, "stage5", 3).eval()
    pooled = trunk.maps(PIXELS, ["stage5"])[0].mean((2, 3))
    logits = pooled @ stage.classifier.weight.T + stage.classifier.bias
    expected = (logits.logsumexp(1) - logits[torch.arange(4), LABELS]).mean()
    assert stage.losses(PIXELS, LABELS)["classification"].item() == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(
        stage.describe(PIXELS).detach(), functional.normalize(pooled).detach(), atol=1e-6
    )


def test_attention_stage_leaves_the_backbone_alone(trunk: Trunk) -> None:
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    stage = AttentionTraining(trunk, "stage5", 3).train()
    optimiser = create_optimiser(stage, Settings(rate=0.1, backbone_rate=0.1, weight_decay=0.1))
    set_rates(optimiser, 1.0)
    first = stage.losses(PIXELS, LABELS)["attention"]
    first.backward()
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert stage.losses(PIXELS, LABELS)["attention"].item() < first.item()


def train_a_step(objective: Objective, settings: Settings) -> None:
    optimiser = create_optimiser(objective, settings)
    set_rates(optimiser, 1.0)
    torch.stack(list(objective.losses(PIXELS, LABELS).values())).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def test_batch_normalisation_keeps_its_statistics_and_learns_the_rest(trunk: Trunk) -> None:
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    joint = JointTraining(trunk, DELG, 3).train()
    hidden = joint.heads.attention.bn1.running_mean
    assert hidden is not None
    hidden_before = hidden.clone()
    train_a_step(joint, Settings())
    after = trunk.state_dict()
    kept = [name for name in before if "running" in name or "num_batches" in name]
    assert len(kept) > 100
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert not torch.equal(after["network.bn0.weight"], before["network.bn0.weight"])
    assert not torch.equal(after["network.bn0.bias"], before["network.bn0.bias"])
    assert not torch.equal(hidden, hidden_before), "that of the attention head, which starts anew, learns"


def test_features_do_not_depend_on_the_batch(trunk: Trunk) -> None:
    stage = Classification(trunk, "stage5", 3).train()
    together = trunk.maps(PIXELS, ["stage5"])[0]
    alone = torch.cat([trunk.maps(PIXELS[i : i + 1], ["stage5"])[0] for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert stage.training


def test_trained_network_gives_the_same_features_folded(
    trunk: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was validated is what is extracted: the weights survive the file and the folding."""
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    joint = JointTraining(trunk, DELG, 3).train()
    for _ in range(2):
        train_a_step(joint, Settings(rate=1e-2, backbone_rate=1e-2))
    joint.eval()
    state = {
        f"{part}.{name}": value
        for part, module in joint.learnt().items()
        for name, value in module.state_dict().items()
    }
    torch.save(state, tmp_path / "a.pt")
    file = StoredWeights("a.pt", "none")
    delg = Delg(
        "delg",
        replace(
            DELG,
            backbone=LiteBackboneConfiguration(0, file),
            heads=file,
            global_scales=(1.0,),
            local_scales=(1.0,),
        ),
    )
    untrained = efficientnet_lite.LiteBackbone(0)
    assert delg.backbone.identity != untrained.identity
    with torch.inference_mode():
        expected = joint.describe(PIXELS)
        plain = untrained.maps(PIXELS, ["head"])[0]
        assert not torch.allclose(trunk.maps(PIXELS, ["head"])[0], plain, atol=0.1)
    for pixels, vector in zip(PIXELS.numpy(), expected.numpy(), strict=True):
        found = delg.extract(Photo(pixels, (64, 64)), "a")
        np.testing.assert_allclose(found.global_descriptor, vector, atol=2e-4)


def test_accumulated_gradients_are_those_of_one_batch(trunk: Trunk) -> None:
    stage = Classification(trunk, "stage5", 3).train()
    stage.losses(PIXELS, LABELS)["classification"].backward()
    whole = gradients(stage)
    stage.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        share = len(LABELS[part]) / 4
        (stage.losses(PIXELS[part], LABELS[part])["classification"] * share).backward()
    found = gradients(stage)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * float(value.abs().max()), rtol=1e-2)


def test_rates_and_decay_of_the_optimiser(trunk: Trunk) -> None:
    joint = JointTraining(trunk, DELG, 3)
    chosen = Settings(optimiser="sgd", rate=0.2, backbone_rate=0.01, weight_decay=0.3)
    optimiser = create_optimiser(joint, chosen)
    assert isinstance(optimiser, torch.optim.SGD)
    set_rates(optimiser, 0.5)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"], group["momentum"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert len(rates) == len(list(joint.parameters()))
    network = trunk.network
    assert rates[id(network.conv_stem.weight)] == (0.005, 0.3, 0.9)  # type: ignore[union-attr]
    assert rates[id(network.bn0.weight)] == (0.005, 0.0, 0.9)  # type: ignore[union-attr]
    assert rates[id(joint.heads.whitening.weight)] == (0.1, 0.3, 0.9)
    assert rates[id(joint.arcface.scale)] == (0.1, 0.0, 0.9)
    assert isinstance(create_optimiser(joint, Settings()), torch.optim.AdamW)


def test_schedule() -> None:
    assert [scheduled(step, 10, 0.2) for step in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert scheduled(2, 10, 0.2) == 1
    assert scheduled(6, 10, 0.2) == pytest.approx(0.5)
    assert scheduled(9, 10, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert scheduled(0, 1, 0.05) == pytest.approx(0.5)
    assert scheduled(0, 10, 0.0) == 1
