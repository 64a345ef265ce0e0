"""The graph inside a TensorFlow 1 SavedModel: what feeds what, where the names of variables do not tell."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from extractor.conversion.protocol_buffers import Message, WireError
from extractor.weights import WeightsError

_ON_THE_WAY = ("Identity", "Enter", "ReadVariableOp", "Cast")
_NORMALISATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")

# Fields of SavedModel, MetaGraphDef, GraphDef, NodeDef, AttrValue, its ListValue, and TensorProto.
_META_GRAPHS, _GRAPH, _NODES = 2, 2, 1
_NAME, _OP, _INPUTS, _ATTRIBUTES = 1, 2, 3, 5
_LIST, _FLOAT, _TENSOR = 1, 4, 8
_INTEGERS = 3
_CONTENT, _FLOATS = 4, 5


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Message]


class Graph:
    """The graph of a `saved_model.pb`.

    Args:
        path: the file.

    Raises:
        WeightsError: it is missing, cut off, damaged or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            meta_graphs = Message(path.read_bytes()).messages(_META_GRAPHS)
            nodes = [
                (node.text(_NAME), _node(node))
                for meta_graph in meta_graphs
                for graph in meta_graph.messages(_GRAPH)
                for node in graph.messages(_NODES)
            ]
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from error
        except WireError as error:
            raise WeightsError(f"{path} is no SavedModel: {error}; download it again") from error
        if not nodes:
            raise WeightsError(f"{path} is no SavedModel: it holds no graph; download it again")
        self._nodes = dict(nodes)
        self._users: dict[str, list[str]] = defaultdict(list)
        for name, node in nodes:
            for source in node.inputs:
                self._users[source].append(name)

    def feeds(self, kernel: str, other: str) -> bool:
        """Whether what is computed with one kernel has a part in what is multiplied with another.

        Raises:
            WeightsError: nothing is computed with the other.
        """
        sources = set(self._products_with(kernel))
        waiting = self._products_with(other)
        if not waiting:
            raise WeightsError(f"{self.path} computes nothing with {other}: it is not of these variables")
        seen = set(waiting)
        while waiting:
            node = self._nodes.get(waiting.pop())
            for before in node.inputs if node else ():
                if before in sources:
                    return True
                if before not in seen:
                    seen.add(before)
                    waiting.append(before)
        return False

    def stride(self, kernel: str) -> int | None:
        """Of the convolutions with a kernel, along rows; None if the graph does not tell."""
        for name in self._products_with(kernel):
            node = self._nodes[name]
            if "strides" in node.attributes:
                strides = Message(node.attributes["strides"].data(_LIST)).numbers(_INTEGERS)
                return strides[1] if len(strides) == 4 else None
        return None

    def epsilons(self) -> set[float]:
        """The different epsilons of all batch normalisations."""
        found: set[float] = set()
        for name, node in self._nodes.items():
            if node.op in _NORMALISATIONS and "epsilon" in node.attributes:
                found.update(_floats(node.attributes["epsilon"].data(_FLOAT)))
            elif name.endswith("batchnorm/add"):
                found.update(value for source in node.inputs for value in self._constant(source))
        return found

    def exponents(self) -> set[float]:
        """The different constants that something is raised to."""
        powers = (
            node.inputs[1] for node in self._nodes.values() if node.op == "Pow" and len(node.inputs) > 1
        )
        return {value for source in powers for value in self._constant(source)}

    def _products_with(self, variable: str) -> list[str]:
        """The convolutions and matrix products that use a variable."""
        waiting, found = [variable], []
        for name in waiting:
            for user in self._users[name]:
                if self._nodes[user].op in ("Conv2D", "MatMul"):
                    found.append(user)
                elif self._nodes[user].op in _ON_THE_WAY and user not in waiting:
                    waiting.append(user)
        return found

    def _constant(self, name: str) -> list[float]:
        """Values of a constant; none if it is something else."""
        node = self._nodes.get(name)
        while node is not None and node.op in _ON_THE_WAY and node.inputs:
            node = self._nodes.get(node.inputs[0])
        if node is None or node.op != "Const" or "value" not in node.attributes:
            return []
        tensor = Message(node.attributes["value"].data(_TENSOR))
        return _floats(tensor.data(_FLOATS) or tensor.data(_CONTENT))


def _node(message: Message) -> _Node:
    inputs = (bytes(name).decode().lstrip("^").partition(":")[0] for name in message.all_data(_INPUTS))
    attributes = {entry.text(1): Message(entry.data(2)) for entry in message.messages(_ATTRIBUTES)}
    return _Node(message.text(_OP), tuple(inputs), attributes)


def _floats(data: memoryview) -> list[float]:
    """Values of float32 numbers; none if they are something else."""
    return [value for (value,) in struct.iter_unpack("<f", data)] if len(data) % 4 == 0 else []
