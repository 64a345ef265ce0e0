"""DELF and DELG as the published training code leaves them: checkpoints of Keras objects, TensorFlow 2.

Variables are found by walking the stored graph of objects along the names of their attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from extractor.conversion.converted import Converted, batch_normalisation, of_our_epsilon
from extractor.conversion.protocol_buffers import Message, WireError
from extractor.conversion.slim import PIXELS
from extractor.conversion.tensor_bundle import TensorBundle
from extractor.conversion.variables import Variables, kernel
from extractor.weights import WeightsError

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_TRAINING = {
    "save_counter",
    "optimizer",
    "desc_classification",
    "attn_classification",
    "cosine_weights",
    "scale_factor",
}
_EPSILON = 1e-3  # of Keras, which the authors kept
_POWER = 3.0  # of DELG's pooling, which no checkpoint says


def is_keras(bundle: TensorBundle) -> bool:
    """Whether a checkpoint is of Keras objects."""
    return _OBJECTS in bundle.names


def convert_keras(bundle: TensorBundle) -> Converted:
    """DELF or DELG on ResNet-50.

    Raises:
        WeightsError: variables are missing, damaged or not those of such a network.
    """
    model = _Model(bundle)
    network = model.network
    backbone, attention = network.child("backbone"), network.child("attention")
    if ("embedding_layer" in backbone.children) != ("autoencoder" in network.children):
        raise WeightsError(
            f"{bundle.index} has of embedding_layer and autoencoder only one: DELF has neither, DELG both"
        )
    style = "keras-thinned" if "subsampling_layer" in backbone.children else "keras"
    metadata: dict[str, object] = {"backbone": {"style": style, "epsilon": _EPSILON, "input": PIXELS}}
    state = _backbone(model, backbone)
    for name in ("conv1", "conv2"):
        state |= model.layer(attention.child(name), f"attention.{name}")
    state |= model.normalisation(attention.child("bn_conv1"), "attention.bn1")
    variance = "attention.bn1.running_var"
    state[variance] = of_our_epsilon(state[variance], _EPSILON)
    if "autoencoder" in network.children:
        autoencoder = network.child("autoencoder")
        state |= model.layer(autoencoder.child("conv1"), "encoder")
        state |= model.layer(autoencoder.child("conv2"), "decoder")
        state |= model.layer(backbone.child("embedding_layer"), "whitening")
        metadata |= {"power": _POWER, "attention_input": "decoded"}
    model.variables.none_left()
    return Converted("delg-resnet50.pt" if "power" in metadata else "delf-resnet50.pt", state, metadata)


def _backbone(model: _Model, backbone: _Object) -> dict[str, Tensor]:
    """The part `backbone`: blocks are `l2a`, `l2b` and so on to `l5c`."""
    state = model.layer(backbone.child("conv1"), "backbone.conv1")
    state |= model.normalisation(backbone.child("bn_conv1"), "backbone.bn1")
    for name in sorted(backbone.children):
        if not (found := re.fullmatch(r"l(\d)([a-z])", name)):
            continue
        block = backbone.child(name)
        part = f"backbone.layer{int(found[1]) - 1}.{ord(found[2]) - ord('a')}"
        for number, letter in enumerate("abc", start=1):
            state |= model.layer(block.child(f"conv2{letter}"), f"{part}.conv{number}")
            state |= model.normalisation(block.child(f"bn2{letter}"), f"{part}.bn{number}")
        if "conv_shortcut" in block.children:
            state |= model.layer(block.child("conv_shortcut"), f"{part}.downsample.0")
            state |= model.normalisation(block.child("bn_shortcut"), f"{part}.downsample.1")
    return state


@dataclass(frozen=True, eq=False)
class _Object:
    """A Keras object.

    Attributes:
        model: whose object it is.
        key: under which its value is stored, if it is a variable.
        children: numbers of the objects that are its attributes.
    """

    model: _Model
    key: str
    children: Mapping[str, int]

    def child(self, name: str) -> _Object:
        """An attribute.

        Raises:
            WeightsError: there is none of this name.
        """
        if name not in self.children:
            known = ", ".join(sorted(self.children)) or "nothing"
            raise WeightsError(f"{self.model.source}: an object should have {name}, and has {known}")
        return self.model.objects[self.children[name]]


class _Model:
    """The objects of a checkpoint.

    Attributes:
        source: the checkpoint.
        objects: all of them, by their numbers.
        network: the one that has a backbone and an attention.
        variables: what is stored, by key.
    """

    def __init__(self, bundle: TensorBundle) -> None:
        self.source = bundle.index
        try:
            nodes = Message(bundle.text(_OBJECTS)).messages(1)
            self.objects = [self._object(node) for node in nodes]
            reached = list(self._reached([0], set()))
        except (WireError, IndexError) as error:
            raise WeightsError(f"{self.source} has a damaged graph of objects: {error}") from error
        networks = (one for one in reached if {"backbone", "attention"} <= one.children.keys())
        network = next(networks, None)
        if network is None:
            raise WeightsError(
                f"{self.source} has no object with a backbone and an attention: it is neither DELF nor DELG"
            )
        self.network = network
        needed = {one.key for one in self._reached([self.objects.index(network)], _TRAINING)}
        shapes = {key: bundle.shape(key) for key in needed - {""} if key in bundle.names}
        self.variables = Variables(
            bundle.index, shapes, lambda key: torch.from_numpy(bundle.array(key)), unused="^$"
        )

    def _object(self, node: Message) -> _Object:
        values = {value.text(1): value.text(3) for value in node.messages(2)}
        children = {child.text(2): child.number(1) for child in node.messages(1)}
        return _Object(self, values.get("VARIABLE_VALUE", ""), children)

    def _reached(self, start: Iterable[int], without: set[str]) -> Iterable[_Object]:
        """Objects reached through attributes, near ones first; those of some names are passed over."""
        waiting = list(start)
        for number in waiting:
            here = self.objects[number]
            yield here
            waiting += [
                child for name, child in here.children.items() if name not in without and child not in waiting
            ]

    def layer(self, layer: _Object, part: str) -> dict[str, Tensor]:
        """A convolution or a fully connected layer as PyTorch names it."""
        weight, bias = (self.variables.take(layer.child(name).key) for name in ("kernel", "bias"))
        return {f"{part}.weight": kernel(weight), f"{part}.bias": bias}

    def normalisation(self, layer: _Object, part: str) -> dict[str, Tensor]:
        """A batch normalisation as PyTorch names it."""
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return batch_normalisation(part, *(self.variables.take(layer.child(name).key) for name in names))
