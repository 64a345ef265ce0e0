"""DELF and DELG as their authors exported them from TF-Slim: TensorFlow 1 SavedModels.

The backbone's variables have the names of TF-Slim. Those of DELG's heads were never published, so what a
variable of a head is follows from its shape, and what the attention looks at from the graph.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from extractor.conversion.converted import Converted, batch_normalisation, of_our_epsilon
from extractor.conversion.tensor_bundle import TensorBundle
from extractor.conversion.tensorflow_graph import Graph
from extractor.conversion.variables import Variables, kernel, listed
from extractor.resnet import STYLES
from extractor.weights import WeightsError

PIXELS = [1.0, [128.0] * 3, [128.0] * 3]
"""What DELF and DELG make of pixels: (x - 128) / 128."""

_STEM = re.compile(r"(resnet_v1_\d+)/conv1/weights")
_TRAINING = (
    r"(^|/)(global_step$|logits/)|/(Momentum|RMSProp|Adam|ExponentialMovingAverage)(_\d+)?$|^_CHECKPOINTABLE_"
)
_EPSILON = 1e-5  # of TF-Slim's ResNet, where the graph does not tell
_POWER = 3.0  # of DELG's pooling, likewise


def is_slim(bundle: TensorBundle) -> bool:
    """Whether a checkpoint is of a network of TF-Slim."""
    return any(_STEM.fullmatch(name) for name in bundle.names)


def convert_slim(bundle: TensorBundle, graph_file: Path) -> Converted:
    """DELF or DELG on a ResNet.

    Args:
        bundle: the variables.
        graph_file: the `saved_model.pb` beside them.

    Raises:
        WeightsError: variables or the graph are missing, damaged or not those of such a network.
    """
    (scope,) = {found[1] for name in bundle.names if (found := _STEM.fullmatch(name))}
    shapes = {name: bundle.shape(name) for name in bundle.names}
    variables = Variables(bundle.index, shapes, lambda name: torch.from_numpy(bundle.array(name)), _TRAINING)
    graph = Graph(graph_file)
    epsilon = _only(graph.epsilons(), _EPSILON, f"{graph_file} has several epsilons")
    metadata: dict[str, object] = {"backbone": {"style": "slim", "epsilon": epsilon, "input": PIXELS}}
    state, channels = _backbone(variables, scope)
    _check_strides(graph, bundle, scope)
    heads = _Heads(variables)
    if len(channels) < 4:
        state |= heads.attention(channels[-1], epsilon)
    else:
        state |= heads.linear("whitening", channels[3], None)
        state |= heads.attention(channels[2], epsilon)
        decoder = heads.linear("decoder", None, channels[2]) if heads.fitting(None, channels[2]) else {}
        state |= heads.linear("encoder", channels[2], None)
        if decoder and graph.feeds(heads.kernels["decoder"], heads.kernels["attention.conv1"]):
            state |= decoder
            metadata["attention_input"] = "decoded"
        powers = {power for power in graph.exponents() if power > 1}
        metadata["power"] = _POWER if _POWER in powers else _only(powers, _POWER, f"{graph_file} has powers")
    variables.none_left()
    system, depth = "delf" if len(channels) < 4 else "delg", scope.rpartition("_")[2]
    return Converted(f"{system}-resnet{depth}.pt", state, metadata)


def _only(found: set[float], otherwise: float, trouble: str) -> float:
    """The one value that was found, with the digits that float32 holds of it."""
    if len(found) > 1:
        raise WeightsError(f"{trouble}: {listed(map(str, sorted(found)))}")
    return float(str(np.float32(found.pop()))) if found else otherwise


def _check_strides(graph: Graph, bundle: TensorBundle, scope: str) -> None:
    """Make sure that strides are where TF-Slim puts them, as far as the graph tells."""
    for stage, expected in enumerate(STYLES["slim"].strides, start=1):
        second = re.compile(rf"{scope}/block{stage}/unit_(\d+)/bottleneck_v1/conv2/weights")
        units = {int(found[1]): name for name in bundle.names if (found := second.fullmatch(name))}
        strides = [graph.stride(units[unit]) for unit in sorted(units)]
        if not set(strides[:-1]) <= {1, None} or not set(strides[-1:]) <= {expected, None}:
            raise WeightsError(
                f"{graph.path} has the strides {strides} in block {stage}, unlike TF-Slim's ResNet"
            )


def _backbone(variables: Variables, scope: str) -> tuple[dict[str, Tensor], list[int]]:
    """The part `backbone`, and the channels behind each of its stages."""
    state: dict[str, Tensor] = {}

    def take(scope: str, convolution: str, normalisation: str) -> None:
        state[f"backbone.{convolution}.weight"] = kernel(variables.take(f"{scope}/weights"))
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        values = (variables.take(f"{scope}/BatchNorm/{part}") for part in parts)
        state.update(batch_normalisation(f"backbone.{normalisation}", *values))

    take(f"{scope}/conv1", "conv1", "bn1")
    channels: list[int] = []
    block = f"{scope}/block1/unit_1/bottleneck_v1"
    while f"{block}/conv1/weights" in variables.left:
        stage, unit = len(channels) + 1, 0
        while f"{block}/conv1/weights" in variables.left:
            name = f"layer{stage}.{unit}"
            for number in (1, 2, 3):
                take(f"{block}/conv{number}", f"{name}.conv{number}", f"{name}.bn{number}")
            if f"{block}/shortcut/weights" in variables.left:
                take(f"{block}/shortcut", f"{name}.downsample.0", f"{name}.downsample.1")
            unit += 1
            block = f"{scope}/block{stage}/unit_{unit + 1}/bottleneck_v1"
        channels.append(len(state[f"backbone.{name}.conv3.weight"]))
        block = f"{scope}/block{stage + 1}/unit_1/bottleneck_v1"
    return state, channels


class _Heads:
    """What there is besides the backbone, found by shape.

    Attributes:
        kernels: names of the variables with the weights of the parts that were found.
    """

    def __init__(self, variables: Variables) -> None:
        self.variables = variables
        self.kernels: dict[str, str] = {}

    def attention(self, channels: int, epsilon: float) -> dict[str, Tensor]:
        """The part `attention` over features of so many channels."""
        state = self.linear("attention.conv2", None, 1)
        hidden = state["attention.conv2.weight"].shape[1]
        state |= self.linear("attention.conv1", channels, hidden)
        gamma = self._vector("attention.conv1", hidden, ("gamma",), 1.0)
        beta, mean, variance = (
            self._vector("attention.conv1", hidden, (kind,))
            for kind in ("beta", "moving_mean", "moving_variance")
        )
        variance = of_our_epsilon(variance, epsilon)
        return state | batch_normalisation("attention.bn1", gamma, beta, mean, variance)

    def fitting(self, inputs: int | None, outputs: int | None) -> list[str]:
        """Kernels of 1x1 convolutions and fully connected layers; None stands for any number of channels."""
        return [
            name
            for name, shape in self.variables.left.items()
            if len(shape) >= 2
            and set(shape[:-2]) <= {1}
            and inputs in (None, shape[-2])
            and outputs in (None, shape[-1])
        ]

    def linear(self, part: str, inputs: int | None, outputs: int | None) -> dict[str, Tensor]:
        """Weights and bias of the one such layer.

        Raises:
            WeightsError: there is none, or there are several.
        """
        found = self.fitting(inputs, outputs)
        if len(found) != 1:
            raise WeightsError(
                f"{self.variables.source} should hold one kernel from {inputs or 'any'} to "
                f"{outputs or 'any'} channels, for the {part}, and holds {listed(found) or 'none'}: it is "
                "another network than DELF and DELG"
            )
        self.kernels[part] = found[0]
        weight = kernel(self.variables.take(found[0])).flatten(1)
        return {
            f"{part}.weight": weight if part == "whitening" else weight[:, :, None, None],
            f"{part}.bias": self._vector(part, len(weight), ("biases", "bias"), 0.0),
        }

    def _vector(self, part: str, size: int, kinds: tuple[str, ...], otherwise: float | None = None) -> Tensor:
        """A vector beside the kernel of a part, or the only one of its size; filled up where it may miss."""
        scope = self.kernels[part].rpartition("/")[0] + "/"
        found = [
            name
            for name, shape in self.variables.left.items()
            if shape == (size,) and name.rpartition("/")[2] in kinds
        ]
        found = [name for name in found if name.startswith(scope)] or found
        if len(found) == 1:
            return self.variables.take(found[0])
        if not found and otherwise is not None:
            return torch.full((size,), otherwise)
        raise WeightsError(
            f"{self.variables.source} should hold one {kinds[0]} of {size} values beside "
            f"{self.kernels[part]}, and holds {listed(found) or 'none'}"
        )
