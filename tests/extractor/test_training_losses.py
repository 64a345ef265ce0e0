from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.training.arcface import ArcFace
from extractor.training.losses import attentive_pool, reconstruction_loss


def arcface(margin: float, scale: float, centres: list[list[float]]) -> ArcFace:
    made = ArcFace(2, len(centres), margin, scale)
    made.centres.data = torch.tensor(centres)
    return made


def test_arcface_by_hand() -> None:
    # The descriptor lies at 30 degrees, the centres at 0 and 90; norms must not matter.
    made = arcface(math.radians(15), 2.0, [[3.0, 0.0], [0.0, 0.5]])
    descriptor = 7 * torch.tensor([[math.cos(math.radians(30)), math.sin(math.radians(30))]])
    logits = made.logits(descriptor, torch.tensor([0]))
    expected = [2 * math.cos(math.radians(45)), 2 * math.cos(math.radians(60))]
    np.testing.assert_allclose(logits.detach().numpy(), [expected], atol=1e-6)
    loss = made(descriptor, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(expected[1] - expected[0])), abs=1e-6)


@given(angle=st.floats(0.01, math.pi - 0.01), margin=st.floats(0, 0.5), scale=st.floats(0.5, 60))
@settings(deadline=None)
def test_margin_is_added_to_the_angle_until_it_is_straight(angle: float, margin: float, scale: float) -> None:
    made = arcface(margin, scale, [[1.0, 0.0], [0.0, 1.0]])
    descriptor = torch.tensor([[math.cos(angle), math.sin(angle)]])
    logit = float(made.logits(descriptor, torch.tensor([0])).detach()[0, 0])
    wider = angle + margin
    if abs(wider - math.pi) < 1e-3:
        return
    assert logit / scale == pytest.approx(math.cos(wider if wider < math.pi else angle), abs=2e-4)


def test_arcface_learns_its_scale_and_has_a_gradient_at_the_centre() -> None:
    made = arcface(0.1, 4.0, [[1.0, 0.0], [0.0, 1.0]])
    descriptor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    made(descriptor, torch.tensor([0])).backward()
    assert made.scale.grad is not None
    # d/ds of log(1 + exp(s (cos 90 - cos m))) with m = 0.1
    gap = math.cos(0.1)
    assert float(made.scale.grad) == pytest.approx(-gap / (1 + math.exp(4 * gap)), rel=1e-4)
    assert descriptor.grad is not None
    assert torch.isfinite(descriptor.grad).all()


def test_arcface_scale_starts_at_the_root_of_the_dimension() -> None:
    assert float(ArcFace(2048, 3).scale.detach()) == pytest.approx(45.2548, abs=1e-3)


def test_arcface_in_float32_within_autocast() -> None:
    torch.manual_seed(0)
    made = ArcFace(16, 5)
    descriptors, labels = torch.randn(4, 16), torch.tensor([0, 1, 2, 3])
    plain = made(descriptors, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made(descriptors, labels)
    assert torch.equal(plain, mixed)


def test_attentive_pool_by_hand() -> None:
    # Two places with features (3, 4) and (0, 2): unit vectors (.6, .8) and (0, 1), times the root of 2.
    features = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    scores = torch.tensor([[[0.5, 2.0]]])
    root = math.sqrt(2)
    expected = [[root * (0.5 * 0.6) / 2, root * (0.5 * 0.8 + 2.0 * 1.0) / 2]]
    np.testing.assert_allclose(attentive_pool(features, scores).numpy(), expected, rtol=1e-6)


def test_attentive_pool_of_a_repeated_map_is_the_same() -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(2, 5, 3, 4)))
    scores = torch.from_numpy(rng.uniform(size=(2, 3, 4)))
    twice = attentive_pool(features.repeat(1, 1, 2, 3), scores.repeat(1, 2, 3))
    np.testing.assert_allclose(twice.numpy(), attentive_pool(features, scores).numpy())


def test_reconstruction_loss_by_hand() -> None:
    rebuilt = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    features = torch.tensor([[[[1.0, 0.0]], [[3.0, 3.0]]]])
    assert float(reconstruction_loss(rebuilt, features)) == (0 + 4 + 9 + 1) / 4
