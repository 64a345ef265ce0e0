"""A match graph whose images have names, with all that the rankers need, in a folder."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from landbridge.datasets.dataset import some
from landbridge.datasets.photos import without_suffix
from landbridge.datasets.revisited import GroundTruth, ground_truth_file, read_ground_truth
from ranking import interchange
from ranking.clusters import clusters
from ranking.confidence import Confidence
from ranking.match_graph import MINIMUM_CONFIDENCE, MatchGraph
from ranking.metrics import Truth, evaluate
from ranking.rankers import RANKERS, Images, Ranked, rank

FORMATS = ("graphml", "egt", "npz")
MATCHED = ("inliers", "egt", "id-qe", "mmst-c")
"""Methods that rank by verified pairs; the others rank by global descriptors alone."""

MOST_WITHOUT_DESCRIPTORS = 20_000

_FORMAT = 1
_CURRENT = "current.json"
_BUILT = re.compile(r"built-(\d+)")
_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, None))


@dataclass(frozen=True, eq=False)
class NamedGraph:
    """Index and query images, their global descriptors and the pairs of them that were verified.

    Attributes:
        ids: n names, those of the index first, then those of the queries; each part has its names once.
        index: number of index images.
        descriptors: float32 [n, D] of unit norm; None where there are none.
        graph: match graph of the n images by confidence; None where nothing was verified.
        inliers: match graph of the same by numbers of inliers, at least 1; None where they are not known.
        measured: how confidence was calibrated; None where it was not.
    """

    ids: list[str]
    index: int
    descriptors: NDArray[np.float32] | None = None
    graph: MatchGraph | None = None
    inliers: MatchGraph | None = None
    measured: Confidence | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open what `save` wrote; descriptors and graphs are mapped.

        Raises:
            FileNotFoundError: the folder holds no graph.
            ValueError: it is of another version or damaged.
        """
        folder = Path(folder)
        current = folder / _CURRENT
        if not current.is_file():
            raise FileNotFoundError(f"{folder} holds no graph: make one with `landbridge graph build`")
        try:
            header = json.loads(current.read_text(encoding="utf-8"))
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']}, not {_FORMAT}")
            place = folder / header["built"]
            with (place / "images.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            ids = [row["id"] for row in rows]
            index = sum(row["role"] == "index" for row in rows)
            parts: dict[str, Any] = {}
            if (place / "descriptors.npy").is_file():
                parts["descriptors"] = np.asarray(np.load(place / "descriptors.npy", mmap_mode="r"))
            for name in ("graph", "inliers"):
                if (place / name).is_dir():
                    parts[name] = MatchGraph.open(place / name)
            if header["measured"] is not None:
                parts["measured"] = Confidence(**header["measured"])
            for name in ("descriptors", "graph", "inliers"):
                if name in parts and len(parts[name]) != len(ids):
                    raise ValueError(f"{len(ids)} images, but {len(parts[name])} in {name}")
        except (ValueError, KeyError, TypeError, OSError, csv.Error) as error:
            raise ValueError(f"the graph in {folder} cannot be read ({error}); build it again") from None
        return cls(ids, index, **parts)

    def save(self, folder: Path | str) -> None:
        """Write to a folder; a graph that is there is replaced in one step, when all is written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        before = [path for path in folder.iterdir() if _BUILT.fullmatch(path.name)]
        number = 1 + max((int(path.name.removeprefix("built-")) for path in before), default=0)
        place = folder / f"built-{number}"
        place.mkdir()
        with (place / "images.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "role"])
            writer.writerows(
                (name, "index" if i < self.index else "query") for i, name in enumerate(self.ids)
            )
        if self.descriptors is not None:
            np.save(place / "descriptors.npy", self.descriptors)
        if self.graph is not None:
            self.graph.save(place / "graph")
        if self.inliers is not None:
            self.inliers.save(place / "inliers")
        measured = None if self.measured is None else asdict(self.measured)
        part = folder / f"{_CURRENT}.part"
        part.write_text(json.dumps({"format": _FORMAT, "built": place.name, "measured": measured}))
        part.replace(folder / _CURRENT)
        for path in before:
            shutil.rmtree(path)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _index_numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids[: self.index])}

    @cached_property
    def _query_numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids[self.index :], self.index)}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that what is known suffices for, of `ranking.rankers.RANKERS`."""
        has = {
            "inliers": self.inliers is not None,
            "egt": self.inliers is not None,
            "id-qe": self.graph is not None,
            "mmst-c": self.graph is not None,
        }
        return tuple(method for method in RANKERS if has.get(method, self.descriptors is not None))

    @cached_property
    def images(self) -> Images:
        """The images as the rankers take them.

        Images without global descriptors get a dimension each: ID-QE and MMST-C then rank by the verified
        pairs alone, and what has none with the query's surroundings comes in the order of the names.

        Raises:
            ValueError: there are no global descriptors, and more than `MOST_WITHOUT_DESCRIPTORS` images.
        """
        descriptors = self.descriptors
        if descriptors is None:
            if len(self) > MOST_WITHOUT_DESCRIPTORS:
                raise ValueError(
                    f"{len(self)} images without global descriptors are more than "
                    f"{MOST_WITHOUT_DESCRIPTORS}: build the graph with a file of global descriptors"
                )
            descriptors = np.eye(len(self), dtype=np.float32)
        inliers = None if self.inliers is None else self.inliers.matrix()
        return Images(descriptors, self.index, self.graph, inliers)

    def numbers(self, queries: Sequence[str] | None = None) -> NDArray[np.int64]:
        """The numbers of queries: places among `ids`.

        Args:
            queries: names of query images, or of index images, which do not find themselves, with or without
                suffix; by default all query images or, where there are none, all index images.

        Raises:
            ValueError: the graph knows no image of a name.
        """
        if queries is None:
            return np.arange(self.index, len(self)) if len(self) > self.index else np.arange(self.index)
        known = self._index_numbers | self._query_numbers
        queries = [name if name in known else without_suffix(name) for name in queries]
        missing = [name for name in queries if name not in known]
        if missing:
            raise ValueError(f"the graph knows no image {some(missing)}")
        return np.array([known[name] for name in queries], np.int64)

    def ranked(
        self, method: str, queries: NDArray[np.int64], limit: int = 100, *, offline: bool = False
    ) -> Ranked:
        """Rank the index for some queries.

        Args:
            method: one of `methods`.
            queries: int64 [Q], numbers of images.
            limit: longest list.
            offline: query images serve one another as bridges; if not, each is ranked as if it were alone
                with the index.

        Returns:
            Numbers of images, scores and parents, [Q, limit] each.

        Raises:
            ValueError: there is no such method, or what it needs is not known.
        """
        if method in RANKERS and method not in self.methods:
            needed = "verified pairs" if method in MATCHED else "global descriptors"
            raise ValueError(
                f"{method} needs {needed}, which this graph does not have; it has what it takes for "
                f"{', '.join(self.methods)}"
            )
        return rank(method, self.images, queries, limit, offline=offline)

    def rank(
        self,
        method: str = "mmst-c",
        queries: Sequence[str] | None = None,
        limit: int = 100,
        *,
        offline: bool = False,
    ) -> dict[str, list[str]]:
        """Rank the index for some queries: name of the query -> names of index images, best first.

        Arguments and errors are those of `numbers` and `ranked`.
        """
        chosen = self.numbers(queries)
        found = self.ranked(method, chosen, limit, offline=offline)
        return {
            self.ids[query]: [self.ids[i] for i in row if i >= 0]
            for query, row in zip(chosen.tolist(), found.ids.tolist(), strict=True)
        }

    def evaluate(
        self,
        ground_truth: Path | str | GroundTruth,
        methods: Sequence[str] | None = None,
        *,
        offline: bool = False,
        min_positives: int = 1,
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Measure methods by the revisited or the classic protocol of Oxford and Paris.

        Source: Radenović et al., Revisiting Oxford and Paris, CVPR 2018; Philbin et al., CVPR 2007.

        Args:
            ground_truth: a `gnd` file (JSON or pickle) or the folder that it is in. Its images are found by
                their names without suffix and, where that fits one image alone, without folders. A query
                that is an index image is not looked for.
            methods: by default all that can be ranked.
            offline: as for `ranked`.
            min_positives: queries with fewer positives are left out of a protocol.

        Returns:
            Method -> protocol -> `{"mAP": …, "mP@10": …, "Recall@1": …}` in percent. A protocol in which no
            query has enough positives is left out.

        Raises:
            ValueError: the ground truth names images that the graph does not know, or no query has enough
                positives.
        """
        truth = ground_truth if isinstance(ground_truth, GroundTruth) else _ground_truth(Path(ground_truth))
        place = _found(truth.index_ids, self._index_numbers, "index images of the ground truth")
        outside = self._query_numbers or self._index_numbers
        queries = np.array(_found(truth.query_ids, outside, "queries of the ground truth"), np.int64)
        named = dict(zip(truth.index_ids, place, strict=True))
        protocols: dict[str, dict[int, Truth[int]]] = {}
        for protocol, truths in truth.protocols().items():
            judged = {}
            for query, wanted in zip(queries.tolist(), truths.values(), strict=True):
                judged[query] = Truth(
                    frozenset(named[name] for name in wanted.positives) - {query},
                    frozenset(named[name] for name in wanted.junk),
                )
            if any(len(wanted.positives) >= max(min_positives, 1) for wanted in judged.values()):
                protocols[protocol] = judged
        if not protocols:
            raise ValueError(f"no query has {max(min_positives, 1)} or more positives")
        table = {}
        for method in self.methods if methods is None else methods:
            found = self.ranked(method, queries, self.index, offline=offline)
            rankings = {
                query: row[row >= 0].tolist() for query, row in zip(queries.tolist(), found.ids, strict=True)
            }
            table[method] = {
                protocol: evaluate(rankings, judged, min_positives=min_positives).means()
                for protocol, judged in protocols.items()
            }
        return table

    def clusters(self, confidence: float = MINIMUM_CONFIDENCE) -> dict[str, int]:
        """Cut the maximum spanning forest of the index at a confidence: see `ranking.clusters`.

        Returns:
            Name of each index image -> its cluster; 0 is the largest.

        Raises:
            ValueError: nothing was verified.
        """
        return dict(zip(self.ids[: self.index], self._clusters(confidence).tolist(), strict=True))

    def _clusters(self, confidence: float) -> NDArray[np.int64]:
        inner = self._required().matrix()[: self.index, : self.index]
        return clusters(MatchGraph.from_matrix(inner), confidence)

    def _required(self) -> MatchGraph:
        if self.graph is None:
            raise ValueError("nothing was verified: the graph has no edges; build it with local features")
        return self.graph

    @property
    def distinct_ids(self) -> list[str]:
        """The names, with `query:` before those of queries that index images have too."""
        clash = self._query_numbers.keys() & self._index_numbers.keys()
        return [
            f"query:{name}" if i >= self.index and name in clash else name for i, name in enumerate(self.ids)
        ]

    def to_networkx(self) -> nx.Graph:
        """All images as nodes; edges with `confidence` and, where they are known, `inliers`."""
        inliers = None if self.inliers is None else self.inliers.matrix()
        return interchange.to_networkx(self._required(), self.distinct_ids, inliers)

    def export(self, path: Path | str, file_format: str) -> None:
        """Write the graph for other programs.

        Args:
            path: the file.
            file_format: `graphml` or `npz` (confidence and inliers, see `ranking.interchange`), or `egt`: the
                prebuilt graph of EGT, by inliers or, where they are not known, by confidence.

        Raises:
            ValueError: there is no such format, nothing was verified, or the format cannot hold a name.
        """
        path = Path(path)
        graph = self._required()
        inliers = None if self.inliers is None else self.inliers.matrix()
        if file_format == "graphml":
            interchange.write_graphml(path, graph, self.distinct_ids, inliers)
        elif file_format == "npz":
            interchange.write_npz(path, graph, self.distinct_ids, inliers)
        elif file_format == "egt":
            weights = graph.matrix() if inliers is None else inliers
            interchange.write_egt(path, weights, self.distinct_ids)
        else:
            raise ValueError(f"no format {file_format!r}; there are {', '.join(FORMATS)}")

    def stats(self, confidence: float = MINIMUM_CONFIDENCE) -> dict[str, Any]:
        """Figures of the graph, in values that JSON can hold.

        Args:
            confidence: edges below do not count.

        Returns:
            `images`, `queries`; of the index `edges`, `components` (of two images or more), `alone` (images
            without an edge), `largest` component, `degree` (mean, median, max), `cluster_sizes` (size or
            range -> clusters), `confidence` (lower end of a tenth -> edges); `midpoint`, the evidence at
            which a pair is as likely right as wrong, and `methods`.
        """
        facts: dict[str, Any] = {
            "images": self.index,
            "queries": len(self) - self.index,
            "dimension": None if self.descriptors is None else self.descriptors.shape[1],
            "midpoint": None if self.measured is None else self.measured.midpoint,
            "methods": list(self.methods),
        }
        if self.graph is None:
            return facts
        inner = self.graph.matrix()[: self.index, : self.index]
        graph = MatchGraph.from_matrix(inner, max(confidence, float(np.finfo(np.float32).tiny)))
        degree = np.diff(graph.indptr)
        size = np.bincount(self._clusters(confidence))
        counts = Counter(size.tolist())
        tenths = np.clip((10 * graph.confidence.astype(np.float64) + 1e-6).astype(int), 0, 9)
        histogram = np.bincount(tenths, minlength=10) // 2
        return facts | {
            "edges": graph.edges,
            "components": int((size > 1).sum()),
            "largest": int(size.max(initial=0)),
            "alone": int((degree == 0).sum()),
            "degree": {
                "mean": float(degree.mean()) if len(degree) else 0.0,
                "median": float(np.median(degree)) if len(degree) else 0.0,
                "max": int(degree.max(initial=0)),
            },
            "cluster_sizes": {
                (f"{low}" if low == high else f"{low}+" if high is None else f"{low}-{high}"): total
                for low, high in _SIZES
                if (total := sum(n for s, n in counts.items() if s >= low and (high is None or s <= high)))
            },
            "confidence": {f"{tenth / 10:.1f}": int(n) for tenth, n in enumerate(histogram) if n},
        }


def _ground_truth(path: Path) -> GroundTruth:
    if path.is_dir():
        file = ground_truth_file(path)
        if file is None:
            raise ValueError(f"{path} holds no gnd.json and no gnd_*.pkl")
        path = file
    return read_ground_truth(path)


def _found(names: Sequence[str], known: dict[str, int], what: str) -> list[int]:
    """The numbers of names, with or without their folders.

    Raises:
        ValueError: a name fits no image, or without folders several.
    """
    bare: dict[str, list[int]] = {}
    for name, number in known.items():
        bare.setdefault(name.rpartition("/")[2], []).append(number)
    numbers, missing = [], []
    for name in names:
        fitting = [known[name]] if name in known else bare.get(name.rpartition("/")[2], [])
        if len(fitting) == 1:
            numbers.append(fitting[0])
        else:
            missing.append(name)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} {what} are not in the graph, or fit several of its images: "
            f"{some(missing)}"
        )
    if len(set(numbers)) < len(numbers):
        twice = [name for name, number in zip(names, numbers, strict=True) if numbers.count(number) > 1]
        raise ValueError(f"several {what} are one image of the graph: {some(twice)}")
    return numbers
