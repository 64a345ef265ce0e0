"""Time, memory and recall of the graph methods on a generated collection of a challenge's size.

    python benchmarks/challenge_scale.py --json OUT [--plot PNG] [--work FOLDER] [--quick]

1.1 million index photos and 117 thousand queries (100 thousand photos in all with --quick), and smaller
collections on the way there, each in a process of its own, which tells its peak of memory. Peers and floors
are timed in turn, on 100 thousand photos (30). What is generated, and what the figures mean: docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from pipeline import machine
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from ranking.id_qe import PARTNERS, expand, expand_file
from ranking.match_graph import MatchGraph
from ranking.mmst_c import MINIMUM_CHAIN, SpanningTrees, grow_trees
from ranking.nearest_neighbours import normalised
from ranking.support import support

SIZES = (10_000, 30_000, 100_000, 300_000, 1_217_000)
QUICK = SIZES[:3]
QUERIES = 117_000 / 1_217_000
"""Share of the photos that are queries."""
ALONE = 0.3
"""Share of the photos that show no landmark."""
NEIGHBOURS = 100
MATES = 60
"""Photos of the same view in a list, at most."""
BRIDGES = 2
"""Photos of a view that show the next view of the landmark too."""
BEYOND = 5
"""Photos of the next view that a bridging photo matches, at most."""
RESULTS = 100
DIMENSIONS = 2048
ROUNDS = 3
SAMPLE = 20
"""Queries for the peer that has to be asked one by one."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--plot", type=Path, help="draw the growth (needs matplotlib)")
    arguments.add_argument("--work", type=Path, help="for 15 GB of scratch files")
    arguments.add_argument("--quick", action="store_true", help="at most 100 thousand photos")
    given = arguments.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=given.work) as scratch:
        for size in QUICK if given.quick else SIZES:
            measured = alone(measure, size, Path(scratch))
            print("  ".join(f"{name} {value:.4g}" for name, value in measured.items()), flush=True)
            figures |= measured | {f"{name}.{size}": value for name, value in measured.items()}
        ratios = alone(compare, 30_000 if given.quick else 100_000, Path(scratch))
    for name, value in ratios.items():
        print(f"{name:<32} {value:8.2f}")
    if given.json:
        result = {"name": "challenge_scale", "machine": machine(), "figures": figures, "ratios": ratios}
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if given.plot:
        plot(figures, given.plot)


def alone(task: Callable[[int, Path], dict[str, float]], size: int, scratch: Path) -> dict[str, float]:
    """Run in a fresh process: its peak of memory is that of this task."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, size, scratch).result()


def measure(size: int, scratch: Path, dimensions: int = DIMENSIONS) -> dict[str, float]:
    if dimensions == DIMENSIONS:
        measure(2000, scratch, dimensions=8)  # compiles
    world = generate(size)
    lists = neighbour_lists(world)
    symmetrise, graph = timed(MatchGraph.from_neighbours, *lists, minimum=0.0)
    del lists
    queries = np.arange(world.index, size)
    mmst, trees = timed(grow_trees, graph, queries, RESULTS, world.index)
    supporting, _ = timed(support, graph, queries, trees)
    recall, bridged = recalls(world, queries, trees)
    # Trees of depth 1 are lists of direct neighbours.
    direct = grow_trees(graph, queries, RESULTS, world.index, depth=1, minimum=0.0)
    recall_direct, bridged_direct = recalls(world, queries, direct)
    source, target = scratch / "descriptors.npy", scratch / "expanded.npy"
    write_descriptors(world, source, dimensions)
    iteration, _ = timed(expand_file, source, target, graph, iterations=1)
    check(graph, source, target)
    return {
        "nodes": size,
        "edges": graph.edges,
        "seconds_symmetrise": symmetrise,
        "seconds_mmst": mmst,
        "seconds_support": supporting,
        "seconds_idqe_iteration": iteration,
        "peak_rss_gb": peak_rss_gb(),
        "planted_recall": recall,
        "planted_recall_direct": recall_direct,
        "bridged_recall": bridged,
        "bridged_recall_direct": bridged_direct,
    }


def peak_rss_gb() -> float:
    """Of this process since it began; macOS counts bytes, Linux KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def recalls(world: World, queries: NDArray[np.int64], trees: SpanningTrees) -> tuple[float, float]:
    """What share of the planted mates is found.

    Mates of a query are the index photos of its landmark. The first figure is the mean, over the queries that
    have mates, of the share of them that stands among the first min(100, mates) results; a list that is full
    of mates is complete. The second is the share of the mates in other views, which bridges alone lead to,
    over the landmarks that fit the list.
    """
    landmark = world.landmark[world.view]
    mates = np.bincount(landmark[: world.index], minlength=len(world.landmark))[landmark[queries]]
    same_view = np.bincount(world.view[: world.index], minlength=len(world.view))[world.view[queries]]
    tree = np.repeat(np.arange(len(trees)), np.diff(trees.indptr))
    results = trees.order < world.index
    tree, image = tree[results], trees.order[results]
    place = np.arange(len(tree)) - np.searchsorted(tree, np.arange(len(trees)))[tree]
    room = np.minimum(mates, RESULTS)
    right = (landmark[image] == landmark[queries][tree]) & (place < room[tree])
    hits = np.bincount(tree[right], minlength=len(trees))
    beyond = right & (world.view[image] != world.view[queries][tree])
    hits_beyond = np.bincount(tree[beyond], minlength=len(trees))
    fits = mates <= RESULTS
    some = mates > 0
    return (
        float((hits[some] / room[some]).mean()),
        float(hits_beyond[fits].sum() / (mates - same_view)[fits].sum()),
    )


def check(graph: MatchGraph, source: Path, target: Path) -> None:
    """Some images moved one by one, in double precision."""
    before, after = np.load(source, mmap_mode="r"), np.load(target, mmap_mode="r")
    for image in np.random.default_rng(1).integers(0, len(graph), 50):
        row = slice(graph.indptr[image], graph.indptr[image + 1])
        partners = np.argsort(-graph.confidence[row], kind="stable")[:PARTNERS]
        weights = graph.confidence[row][partners].astype(np.float64)
        moved = before[image] + weights @ before[graph.indices[row][partners]].astype(np.float64)
        moved /= np.linalg.norm(moved)
        assert np.allclose(after[image], moved, rtol=2**-10, atol=1e-6), f"image {image} went astray"


def compare(size: int, scratch: Path) -> dict[str, float]:
    """Peers and floors over the time of ours (the floors: ours over theirs), medians of several turns."""
    world = generate(size)
    lists, confidence = neighbour_lists(world)
    graph = MatchGraph.from_neighbours(lists, confidence, minimum=0.0)
    queries = np.arange(world.index, size)
    sample = queries[:SAMPLE]
    trees = grow_trees(graph, queries, RESULTS, world.index)
    members = np.concatenate([queries, trees.order])
    directed = sparse.csr_matrix(
        (confidence.ravel(), lists.ravel(), np.arange(size + 1) * NEIGHBOURS), (size, size)
    )
    distance = graph.matrix().astype(np.float64)
    distance.data = -np.log(distance.data)
    farthest = -math.log(MINIMUM_CHAIN)
    source, target = scratch / "descriptors.npy", scratch / "expanded.npy"
    write_descriptors(world, source, DIMENSIONS)
    in_memory = np.load(source).astype(np.float32)
    contenders: dict[str, Callable[[], Any]] = {
        "symmetrise": lambda: MatchGraph.from_neighbours(lists, confidence, minimum=0.0),
        "symmetrise_scipy": lambda: directed.maximum(directed.T),
        "symmetrise_copy": lambda: [a.copy() for a in (lists, confidence, graph.indices, graph.confidence)],
        "mmst": lambda: grow_trees(graph, queries, RESULTS, world.index, threads=1),
        "mmst_scipy": lambda: dijkstra(distance, indices=sample, limit=farthest),
        "mmst_stream": lambda: _stream(graph.indptr, graph.indices, graph.confidence, members),
        "idqe": lambda: expand_file(source, target, graph, iterations=1),
        "idqe_in_memory": lambda: expand(in_memory, graph, iterations=1),
        "idqe_copy": lambda: copy(source, target),
    }
    # The peer finds the same chains, or longer ones than the depth allows.
    for tree, found in zip(trees, np.exp(-contenders["mmst_scipy"]()), strict=False):
        assert (found[tree.order] > tree.confidence - 1e-4).all()
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            turns[name].append(timed(contender)[0])
    seconds = {name: median(times) for name, times in turns.items()}
    return {
        "scipy_over_symmetrise": seconds["symmetrise_scipy"] / seconds["symmetrise"],
        "symmetrise_over_copy": seconds["symmetrise"] / seconds["symmetrise_copy"],
        "scipy_over_mmst": seconds["mmst_scipy"] / SAMPLE / (seconds["mmst"] / len(queries)),
        "mmst_over_stream": seconds["mmst"] / seconds["mmst_stream"],
        "in_memory_over_idqe": seconds["idqe_in_memory"] / seconds["idqe"],
        "idqe_over_copy": seconds["idqe"] / seconds["idqe_copy"],
    }


@numba.njit(cache=True, nogil=True)
def _stream(indptr, indices, confidence, images):  # type: ignore[no-untyped-def]
    """Read the edges of some images, and do nothing with them."""
    total = 0.0
    for image in images:
        for edge in range(indptr[image], indptr[image + 1]):
            total += indices[edge] * confidence[edge]
    return total


def copy(source: Path, target: Path, piece: int = 1 << 24) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, piece)


def plot(figures: dict[str, float], path: Path) -> None:
    """Growth in three pictures: seconds, memory and what was found."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sizes = [size for size in SIZES if f"nodes.{size}" in figures]

    def curve(axes: Any, name: str, label: str, **style: Any) -> None:
        axes.plot(sizes, [figures[f"{name}.{size}"] for size in sizes], marker="o", label=label, **style)

    blue, orange, green, grey = "#0072b2", "#d55e00", "#009e73", "#808080"
    figure, (times, memory, found) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    curve(times, "seconds_idqe_iteration", "ID-QE, one iteration, 2048-d", color=orange)
    curve(times, "seconds_mmst", "MMST-C, all queries", color=blue)
    curve(times, "seconds_support", "support, all queries", color=blue, linestyle="--")
    curve(times, "seconds_symmetrise", "symmetrise", color=green)
    largest = figures["seconds_idqe_iteration"]
    line = [2 * largest * size / sizes[-1] for size in sizes]
    times.plot(sizes, line, color=grey, linestyle=":", label="as the photos grow")
    times.set(xscale="log", yscale="log", title=f"Seconds on {os.cpu_count()} cores")
    times.yaxis.set_major_formatter("{x:g}")
    curve(memory, "peak_rss_gb", "peak, benchmark included", color=blue)
    memory.axhline(8, color=grey, linestyle=":", label="8 GB")
    memory.set(xscale="log", title="Memory in GB", ylim=(0, 8.8))
    curve(found, "planted_recall", "all mates, MMST-C", color=blue)
    curve(found, "planted_recall_direct", "all mates, direct neighbours", color=blue, linestyle="--")
    curve(found, "bridged_recall", "beyond a bridge, MMST-C", color=orange)
    curve(found, "bridged_recall_direct", "beyond a bridge, direct neighbours", color=orange, linestyle="--")
    found.set(xscale="log", title="Share of planted mates found", ylim=(0, 1))
    for axes in (times, memory, found):
        axes.set_xlabel("photos, queries included")
        labels = [f"{size / 1e6:.1f} M" if size >= 1e6 else f"{size // 1000} k" for size in sizes]
        axes.set_xticks(sizes, labels)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


@dataclass(frozen=True, eq=False)
class World:
    """Photos of landmarks, view by view.

    A landmark has one view or several, of which only the bridging photos show two. A photo alone is a view.

    Attributes:
        first: int64 [V], where the photos of each view begin in `images`.
        size: int64 [V], photos.
        landmark: int64 [V].
        following: int64 [V], the next view of the landmark, or the view itself where it is the only one.
        lookalike: int64 [V], a view that is taken for this one.
        images: int32 [n], numbers of the photos; index photos come before queries.
        view: int32 [n], of each photo, by its number.
        index: number of index photos.
    """

    first: NDArray[np.int64]
    size: NDArray[np.int64]
    landmark: NDArray[np.int64]
    following: NDArray[np.int64]
    lookalike: NDArray[np.int64]
    images: NDArray[np.int32]
    view: NDArray[np.int32]
    index: int


def generate(images: int, seed: int = 0) -> World:
    """Landmarks with a long tail of sizes; those of 12 photos and more have one to three views."""
    random = np.random.default_rng(seed)
    sizes = np.clip(2 * random.random(images) ** (-1 / 1.1), 2, images / 100).astype(np.int64)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), images * (1 - ALONE))]
    views = np.where(sizes < 12, 1, random.integers(1, 4, len(sizes)))
    alone = np.ones(images - sizes.sum(), np.int64)
    sizes, views = np.append(sizes, alone), np.append(views, alone)
    landmark = np.repeat(np.arange(len(sizes)), views)
    place = np.arange(len(landmark)) - (np.cumsum(views) - views)[landmark]
    last = place == views[landmark] - 1
    size = sizes[landmark] // views[landmark] + np.where(last, sizes[landmark] % views[landmark], 0)
    following = np.arange(len(landmark)) + np.where(last, -place, 1)
    numbers = random.permutation(images).astype(np.int32)
    view = np.empty(images, np.int32)
    view[numbers] = np.repeat(np.arange(len(size)), size)
    lookalike = view[random.integers(0, images, len(size))].astype(np.int64)
    index = images - round(images * QUERIES)
    return World(np.cumsum(size) - size, size, landmark, following, lookalike, numbers, view, index)


def neighbour_lists(world: World, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 [n, 100], the neighbours of every photo, and float32 [n, 100], the confidence of each pair."""
    return _neighbour_lists(
        world.first, world.size, world.following, world.lookalike, world.images, np.uint64(seed)
    )


@numba.njit(cache=True, nogil=True)
def _neighbour_lists(first, size, following, lookalike, images, seed):  # type: ignore[no-untyped-def]
    found = np.empty((len(images), NEIGHBOURS), np.int32)
    confidence = np.empty((len(images), NEIGHBOURS), np.float32)
    listed_by = np.full(len(images), -1, np.int32)
    state = _mixed(seed)
    for view in range(len(first)):
        other = following[view]
        for place in range(first[view], first[view] + size[view]):
            image = images[place]
            listed_by[image] = image
            bridging = other != view and place - first[view] < BRIDGES
            mates = min((4 * size[view]) // 5, MATES)
            beyond = min(size[other], BEYOND) if bridging else 0
            count = 0
            while count < NEIGHBOURS:
                state = _mixed(state)
                if count < mates:
                    start, many = first[view], size[view]
                elif count < mates + beyond:
                    start, many = first[other], size[other]
                elif state & np.uint64(1):
                    start, many = first[lookalike[view]], size[lookalike[view]]
                else:
                    start, many = 0, len(images)
                right = count < mates + beyond
                neighbour = images[start + np.int64((state >> np.uint64(1)) % np.uint64(many))]
                if listed_by[neighbour] == image:
                    continue
                listed_by[neighbour] = image
                found[image, count] = neighbour
                confidence[image, count] = _confidence(image, neighbour, right, seed)
                count += 1
    return found, confidence


@numba.njit(cache=True, nogil=True)
def _confidence(image, neighbour, right, seed):  # type: ignore[no-untyped-def]
    """One right pair in 4 is below 1/2, one wrong pair in 64 above; the same in both directions."""
    pair = np.uint64(min(image, neighbour)) << np.uint64(32) | np.uint64(max(image, neighbour))
    uniform = (_mixed(pair ^ seed) >> np.uint64(11)) / 2.0**53
    return uniform ** (1 / 2) if right else 1 - (1 - uniform) ** (1 / 6)


@numba.njit(cache=True, nogil=True)
def _mixed(state):  # type: ignore[no-untyped-def]
    """The next 64 random bits (SplitMix64, Steele et al. 2014)."""
    state = np.uint64(state) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def write_descriptors(world: World, path: Path, dimensions: int) -> None:
    """float16 of unit norm; half of each is that of its view."""
    random = np.random.default_rng(2)
    some = normalised(random.standard_normal((4096, dimensions), np.float32))
    own = random.integers(0, len(some), len(world.view))
    shape = (len(own), dimensions)
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(own), len(some)):
            rows = slice(start, start + len(some))
            values = normalised(some[world.view[rows] % len(some)] + some[own[rows]])
            values.astype(np.float16).tofile(file)


if __name__ == "__main__":
    main()
