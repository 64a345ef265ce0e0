"""Match graphs and neighbour lists in the formats of others: networkx, GraphML, EGT's text and `.npz`.

Files are written beside their place and moved there when they are complete, line by line or array by array.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking.match_graph import MatchGraph

COLUMNS = ("confidence", "inliers", "similarity", "weights")
"""What is known of an entry of a list: names of arrays in `.npz` files. EGT's text holds `weights`."""

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EGT_SEPARATOR = re.compile(r"[\s,]")
_INFINITE = (2 - 2**-24) * 2.0**127
"""From here on float32 rounds to infinity."""
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, eq=False)
class NeighbourLists:
    """Lists of neighbours as someone else made them: directed, of any lengths, in their order.

    Attributes:
        ids: of the n images, each once.
        indptr: int64 [n + 1], where the list of each image begins and ends.
        indices: int32 [E], the neighbours.
        columns: float32 [E] by name, one of `COLUMNS`: what the file says of each entry.
    """

    ids: list[str]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    columns: Mapping[str, NDArray[np.float32]]

    def pairs(self) -> NDArray[np.int32]:
        """The entries as int32 [E, 2]: owner of the list, neighbour. `MatchStore.verify` takes them."""
        owners = np.repeat(np.arange(len(self.ids), dtype=np.int32), np.diff(self.indptr))
        return np.stack([owners, self.indices], axis=1)

    def matrix(self, column: str) -> sparse.csr_matrix:
        """One column as a matrix [n, n], lists in rows. `MatchGraph.from_matrix` makes a graph of it.

        Raises:
            ValueError: the lists have no such column.
        """
        if column not in self.columns:
            raise ValueError(f"no {column!r} in these lists: there is {', '.join(self.columns) or 'nothing'}")
        return sparse.csr_matrix(
            (self.columns[column], self.indices, self.indptr), shape=(len(self.ids),) * 2
        )


def to_networkx(
    graph: MatchGraph, ids: Sequence[str] | None = None, inliers: sparse.csr_matrix | None = None
) -> nx.Graph:
    """A match graph for networkx, which takes about 1 KB an edge.

    Args:
        graph: match graph of n images; one made by `MatchGraph.without_bridges` has no undirected form.
        ids: names of the nodes; by default the numbers 0 to n - 1 (as int).
        inliers: symmetric [n, n], inliers of the pairs.

    Returns:
        All n images as nodes; edges with `confidence` and, if they are given, `inliers`.

    Raises:
        ValueError: the graph is not symmetric, the sizes differ, or an id stands twice.
    """
    ids = None if ids is None else _distinct(ids, len(graph))
    result = nx.Graph()
    result.add_nodes_from(range(len(graph)) if ids is None else ids)
    pairs, columns = _edges(graph, inliers)
    for (first, second), *values in zip(pairs.tolist(), *(c.tolist() for c in columns.values()), strict=True):
        edge = (first, second) if ids is None else (ids[first], ids[second])
        result.add_edge(*edge, **dict(zip(columns, values, strict=True)))
    return result


def write_graphml(
    path: Path,
    graph: MatchGraph,
    ids: Sequence[str] | None = None,
    inliers: sparse.csr_matrix | None = None,
) -> None:
    """Write a match graph as GraphML, by way of networkx (see `to_networkx`).

    Raises:
        ValueError: as for `to_networkx`, or an id has a character that XML cannot hold.
    """
    for name in ids or ():
        if _NO_XML.search(name):
            raise ValueError(f"GraphML cannot hold the id {name!r}: rename the image")
    with _replacing(path) as part:
        nx.write_graphml_xml(to_networkx(graph, ids, inliers), part, encoding="utf-8")


def write_npz(
    path: Path,
    graph: MatchGraph,
    ids: Sequence[str] | None = None,
    inliers: sparse.csr_matrix | None = None,
) -> None:
    """Write a match graph as `.npz`, which `read_npz` reads.

    Arrays: `ids` [n] strings, `pairs` int32 [E, 2] with the smaller number first, `confidence` float32 [E]
    and, if they are given, `inliers` int32 [E].

    Args:
        path: the file, ending in .npz.
        graph: match graph of n images.
        ids: names of the images; by default their numbers.
        inliers: symmetric [n, n], inliers of the pairs.

    Raises:
        ValueError: the graph is not symmetric, the sizes differ, an id stands twice or ends in a NUL.
    """
    names = _distinct(_numbers(len(graph)) if ids is None else ids, len(graph))
    for name in names:
        if name.endswith("\0"):
            raise ValueError(f"an .npz file cannot hold the id {name!r}: rename the image")
    pairs, columns = _edges(graph, inliers)
    arrays: dict[str, Any] = {"ids": np.array(names, np.str_), "pairs": pairs, **columns}
    with _replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_npz(path: Path) -> NeighbourLists:
    """Read k-NN lists, inlier lists or a graph from `.npz`.

    The file holds, by name:

    - `ids` [n], strings or integers; without them the images are called "0" to "n - 1";
    - `neighbours` int [n, k], numbers of images, -1 where a list is shorter; or `pairs` int [E, 2] of images,
      each taken as an entry of its first image's list;
    - any of `confidence`, `inliers`, `similarity`, `weights`, of the shape [n, k] or [E].

    Other arrays are left alone.

    Raises:
        ValueError: the file is no `.npz`, an array is missing or of another shape or type, an image is out
            of range, a value is not a number, or an id stands twice. It names the row, counted from 0.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = {"ids", "neighbours", "pairs", *COLUMNS} & set(file)
            found = {name: file[name] for name in wanted}
    except (BadZipFile, ValueError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays ({error})") from None
    if ("neighbours" in found) == ("pairs" in found):
        raise ValueError(f"{path} must hold `neighbours` [n, k] or `pairs` [E, 2], one of the two")
    name = "neighbours" if "neighbours" in found else "pairs"
    entries = found[name]
    if entries.dtype.kind not in "iu" or entries.ndim != 2 or (name == "pairs" and entries.shape[1] != 2):
        shape = "[n, k]" if name == "neighbours" else "[E, 2]"
        raise ValueError(
            f"{path}: {name} must be integers {shape}, got {entries.dtype} {list(entries.shape)}"
        )
    if "ids" in found:
        ids = _names(path, found["ids"])
    else:
        ids = _numbers(len(entries) if name == "neighbours" else int(entries.max(initial=-1)) + 1)
    if name == "neighbours" and len(entries) != len(ids):
        raise ValueError(f"{path}: {len(ids)} ids, but neighbours {list(entries.shape)}")
    _check_rows(path, name, entries, -1 if name == "neighbours" else 0, len(ids))
    columns = {column: found[column] for column in COLUMNS if column in found}
    shape = entries.shape if name == "neighbours" else entries.shape[:1]
    used = entries >= 0 if name == "neighbours" else np.ones(len(entries), np.bool_)
    for column, values in columns.items():
        if values.shape != shape or values.dtype.kind not in "biuf":
            message = f"must be numbers {list(shape)}, got {values.dtype} {list(values.shape)}"
            raise ValueError(f"{path}: {column} {message}")
        wrong = ~np.isfinite(values) & used
        if wrong.any():
            raise ValueError(f"{path}: row {_first_row(wrong)} of {column} holds what is not a number")
    if name == "neighbours":
        lengths, indices, order = used.sum(1), entries[used], used
    else:
        order = np.argsort(entries[:, 0], kind="stable")
        lengths, indices = np.bincount(entries[:, 0], minlength=len(ids)), entries[order, 1]
    chosen = {column: values[order].astype(np.float32) for column, values in columns.items()}
    return NeighbourLists(ids, _indptr(lengths), indices.astype(np.int32), chosen)


def write_egt(path: Path, weights: sparse.csr_matrix, ids: Sequence[str] | None = None) -> None:
    """Write the prebuilt graph of EGT: a line `id,neighbour weight neighbour weight …` for each image.

    Format of the published code of Chang et al., Explore-Exploit Graph Traversal for Image Retrieval,
    CVPR 2019.

    Args:
        path: the file.
        weights: [n, n], row i holds the edges out of image i: inliers, similarities, or `MatchGraph.matrix`.
        ids: names of the images; by default their numbers.

    Raises:
        ValueError: the sizes differ, a weight is not finite, or an id stands twice, is empty, or holds a
            comma or white space, which the format has for separators.
    """
    names = _distinct(_numbers(weights.shape[0]) if ids is None else ids, weights.shape[0])
    for name in names:
        if not name or _EGT_SEPARATOR.search(name) or name[0] == _BYTE_ORDER_MARK or not _encodable(name):
            raise ValueError(f"EGT's format cannot hold the id {name!r}: no commas, no spaces, not empty")
    with _replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for row, name in enumerate(names):
            entries = slice(weights.indptr[row], weights.indptr[row + 1])
            values = weights.data[entries].tolist()
            if not all(map(math.isfinite, values)):
                raise ValueError(f"a weight in the list of {name!r} is not finite")
            neighbours = weights.indices[entries].tolist()
            file.write(f"{name},")
            # Nine digits are what float32 needs.
            file.write(
                " ".join(f"{names[i]} {value:.9g}" for i, value in zip(neighbours, values, strict=True))
            )
            file.write("\n")


def read_egt(path: Path, ids: Sequence[str] | None = None) -> NeighbourLists:
    """Read the prebuilt graph of EGT (see `write_egt`).

    Args:
        path: the file, UTF-8; empty lines are skipped.
        ids: numbers the images, and no other may appear; by default those with a line come first, in their
            order, then the others as they appear.

    Raises:
        ValueError: a line is not of the format, an image has two lines or stands twice in one, or is none of
            `ids`. It names the line, counted from 1.
    """
    number = {} if ids is None else {name: i for i, name in enumerate(_distinct(ids, len(ids)))}
    lines: dict[int, int] = {}
    indices, values, lengths = array("q"), array("f"), array("q")
    with path.open("rb") as file:
        for place, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if place == 1 else "utf-8").strip()
                if not line:
                    continue
                owner, names, weights = _egt_line(line)
                for name in (owner, *names):
                    if ids is None:
                        number.setdefault(name, len(number))
                    elif name not in number:
                        raise ValueError(f"the image {name!r} is not known")
                if number[owner] in lines:
                    raise ValueError(f"{owner!r} has a line already, {lines[number[owner]]}")
            except UnicodeDecodeError:
                raise ValueError(f"{path}, line {place}: it is not UTF-8") from None
            except ValueError as error:
                raise ValueError(f"{path}, line {place}: {error}") from None
            lines[number[owner]] = place
            indices.extend([number[name] for name in names])
            values.extend(weights)
            lengths.append(len(names))
    known = list(number)
    place_of = np.arange(len(known))
    if ids is None:
        order = [*lines, *(i for i in range(len(known)) if i not in lines)]
        known = [known[i] for i in order]
        place_of[order] = np.arange(len(known))
    rows = place_of[np.repeat(np.fromiter(lines, np.int64, len(lines)), lengths)]
    by_row = np.argsort(rows, kind="stable")
    return NeighbourLists(
        known,
        _indptr(np.bincount(rows, minlength=len(known))),
        place_of[np.asarray(indices, np.int64)][by_row].astype(np.int32),
        {"weights": np.asarray(values, np.float32)[by_row]},
    )


def _egt_line(line: str) -> tuple[str, list[str], list[float]]:
    owner, comma, rest = line.partition(",")
    if not comma or not owner or _EGT_SEPARATOR.search(owner):
        raise ValueError(f"it must begin with an id and a comma, not {line[:40]!r}")
    tokens = rest.split()
    names = tokens[::2]
    if len(tokens) % 2:
        raise ValueError(f"{tokens[-1]!r} has no weight")
    if "," in rest:
        raise ValueError(f"{next(token for token in tokens if ',' in token)!r} holds a comma")
    if len(set(names)) < len(names):
        raise ValueError(f"{Counter(names).most_common(1)[0][0]!r} stands twice in the list of {owner!r}")
    weights = []
    for name, token in zip(names, tokens[1::2], strict=True):
        try:
            weights.append(float(token))
        except ValueError:
            raise ValueError(f"the weight of {name!r} is {token!r}, not a number") from None
        if not abs(weights[-1]) < _INFINITE:
            raise ValueError(f"the weight of {name!r} is {token!r}, not a number")
    return owner, names, weights


def _edges(
    graph: MatchGraph, inliers: sparse.csr_matrix | None
) -> tuple[NDArray[np.int32], dict[str, NDArray]]:
    """Each pair once, smaller number first: int32 [E, 2], and what is known of it, [E] by name."""
    if 2 * graph.edges != len(graph.indices):
        raise ValueError(
            "edges of this graph stand in one direction only: export it before `without_bridges`"
        )
    here = np.repeat(np.arange(len(graph), dtype=np.int32), np.diff(graph.indptr))
    up = np.flatnonzero(here < graph.indices)
    pairs = np.stack([here[up], graph.indices[up]], axis=1)
    columns: dict[str, NDArray] = {"confidence": graph.confidence[up]}
    if inliers is not None:
        if inliers.shape != (len(graph), len(graph)):
            raise ValueError(f"a graph of {len(graph)} images, but inliers {list(inliers.shape)}")
        counts = inliers[pairs[:, 0], pairs[:, 1]] if len(pairs) else np.zeros(0)
        columns["inliers"] = np.asarray(counts).reshape(-1).astype(np.int32)
    return pairs, columns


def _distinct(ids: Sequence[str], images: int) -> list[str]:
    ids = list(ids)
    if len(ids) != images:
        raise ValueError(f"{images} images, but {len(ids)} ids")
    if len(set(ids)) < images:
        raise ValueError(f"the id {Counter(ids).most_common(1)[0][0]!r} stands twice")
    return ids


def _numbers(images: int) -> list[str]:
    return [str(i) for i in range(images)]


def _names(path: Path, ids: NDArray) -> list[str]:
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        raise ValueError(f"{path}: ids must be strings or integers [n], got {ids.dtype} {list(ids.shape)}")
    try:
        names = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids
        return _distinct([str(name) for name in names.tolist()], len(ids))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_rows(path: Path, name: str, entries: NDArray, low: int, images: int) -> None:
    wrong = (entries < low) | (entries >= images)
    if wrong.any():
        image = entries[wrong][0]
        raise ValueError(f"{path}: row {_first_row(wrong)} of {name} names image {image} of {images}")
    if name == "neighbours":
        ordered = np.sort(entries, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        row = _first_row(twice) if twice.any() else None
    else:
        _, first = np.unique(entries, axis=0, return_index=True)
        row = np.setdiff1d(np.arange(len(entries)), first)[0] if len(first) < len(entries) else None
    if row is not None:
        raise ValueError(f"{path}: row {row} of {name} names an image twice")


def _first_row(wrong: NDArray[np.bool_]) -> int:
    return int(np.argwhere(wrong)[0, 0])


def _indptr(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _encodable(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside it to write to; it takes its place when all went well."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
