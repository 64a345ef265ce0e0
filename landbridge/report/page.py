"""Rankings and the photos, chains and correspondences behind them, rendered as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from extractor.photo import PhotoError
from landbridge.report.drawing import GAP, HEIGHT, Frame, Strand, strands
from landbridge.report.thumbnail import thumbnail
from landbridge.results import Correspondences, Hit, Ranking

MethodRow = tuple[str, Mapping[str, Mapping[str, float]], float]

_HERE = Path(__file__).parent
_LONGEST_SIDE = 320
_LONGEST_SIDE_LARGE = 384
_PLACEHOLDER_SIZE = (4, 3)


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written.

    Attributes:
        path: The HTML file.
        size: Its length in bytes.
        unreadable: Why a photo could not be read, by its id. A placeholder stands for it.
    """

    path: Path
    size: int
    unreadable: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Photo:
    """A photo on the page: ``name`` is its CSS class, ``picture`` its data URI.

    Where it could not be read, ``picture`` is None and ``trouble`` says why.
    """

    name: str
    image_id: str
    size: tuple[int, int]
    picture: str | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two photos side by side, with the strands between them where there are any to draw."""

    name: str
    source: _Photo
    target: _Photo
    frame: Frame
    strands: tuple[Strand, ...]
    drawn: int


@dataclass(frozen=True, slots=True)
class _Cell:
    """One method under one protocol; ``gain`` is against the row before."""

    mean_ap: float
    precision: float | None
    gain: float | None
    best: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """One query and what is shown of its ranking. ``right`` holds the truth of each ranked photo."""

    ranking: Ranking
    shown: tuple[Hit, ...]
    right: Mapping[str, bool | None]
    average_precision: float | None

    @property
    def bridged(self) -> list[tuple[int, Hit]]:
        """The bridged photos with their ranks."""
        return [(rank, hit) for rank, hit in enumerate(self.shown, 1) if hit.how == "bridged"]

    def count(self, how: str) -> int:
        return sum(hit.how == how for hit in self.shown)

    def marked(self, mark: bool | None, how: str | None = None) -> int:
        return sum(self.right[hit.image_id] is mark for hit in self.shown if how in (None, hit.how))


def write_report(
    path: Path,
    rankings: Sequence[Ranking],
    *,
    photo: Callable[[str], Path],
    correspondences: Callable[[str, str], Correspondences],
    truth: Callable[[str, str], bool | None] | None = None,
    average_precision: Mapping[str, float] | None = None,
    table: Sequence[MethodRow] = (),
    title: str = "Landbridge report",
    facts: Mapping[str, object] | None = None,
    limit: int = 24,
) -> Report:
    """Write rankings as one HTML file that needs nothing else: no network, no folder beside it.

    Each photo is kept once, at some 25 KB.

    Args:
        path: The file to write; its folder is made where missing.
        rankings: One per query, in the order to show them.
        photo: Gives the file of a photo, for the ids of queries and index images. A missing or unreadable
            file is shown as a placeholder.
        correspondences: Gives the inliers of a link from its source to its target.
        truth: Whether an image is right for a query: ``truth(query_id, image_id)``, None where it is not
            known or does not count. Without it nothing is marked.
        average_precision: Of each query, in percent.
        table: One row per method, each compared with the one before: name, the measures ``mAP`` and
            ``mP@10`` in percent per protocol, and seconds.
        title: The page's heading.
        facts: Short facts about the run (data set, number of photos, …) by name.
        limit: Photos shown per query.

    Returns:
        What was written and which photos could not be read.

    Raises:
        ValueError: If two rankings answer the same query, or ``limit`` is below 1.
    """
    query_ids = [ranking.query_id for ranking in rankings]
    if twice := [query_id for query_id, times in Counter(query_ids).items() if times > 1]:
        raise ValueError(f"more than one ranking for the queries {twice}: give each query one ranking")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    sections = [_section(ranking, truth, average_precision or {}, limit) for ranking in rankings]
    links = dict.fromkeys(
        (link.source, link.target) for section in sections for hit in section.shown for link in hit.chain
    )
    photos = _photos(sections, links, photo)
    ranked = {hit.image_id for ranking in rankings for hit in ranking.hits}
    script = _read("report.js")
    page = _environment().get_template("report.html.j2").render(
        title=title,
        facts=facts or {},
        protocols=list(dict.fromkeys(protocol for _, measures, _ in table for protocol in measures)),
        methods=_methods(table),
        sections=sections,
        photos=photos,
        pairs=_pairs(links, photos, correspondences),
        only_queries=set(query_ids) - ranked,
        judged=truth is not None,
        style=_read("report.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        frame_height=HEIGHT,
        frame_gap=GAP,
    )  # fmt: skip
    content = page.encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Report(path, len(content), {i: shown.trouble for i, shown in photos.items() if shown.trouble})


def _read(name: str) -> Markup:
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _breakable(image_id: str) -> Markup:
    """The id with places where a line may break."""
    return Markup("<wbr>").join(re.split(r"(?<=[_./-])", image_id))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _section(
    ranking: Ranking,
    truth: Callable[[str, str], bool | None] | None,
    average_precision: Mapping[str, float],
    limit: int,
) -> _Section:
    right: dict[str, bool | None] = {}
    if truth is not None:
        for image_id in ranking.image_ids:
            answer = truth(ranking.query_id, image_id)
            right[image_id] = None if answer is None else bool(answer)
    return _Section(ranking, ranking.hits[:limit], right, average_precision.get(ranking.query_id))


def _photos(
    sections: Sequence[_Section], links: Iterable[tuple[str, str]], photo: Callable[[str], Path]
) -> dict[str, _Photo]:
    """Every photo on the page by id, larger for queries and where correspondences are drawn."""
    seen_large = {image_id for link in links for image_id in link}
    seen_large.update(section.ranking.query_id for section in sections)
    ids = dict.fromkeys(
        image_id
        for section in sections
        for image_id in (
            section.ranking.query_id,
            *(i for hit in section.shown for i in (*hit.bridges, hit.image_id)),
        )
    )

    def load(number: int, image_id: str, path: Path) -> _Photo:
        try:
            small = thumbnail(path, _LONGEST_SIDE_LARGE if image_id in seen_large else _LONGEST_SIDE)
        except PhotoError as error:
            return _Photo("p-none", image_id, _PLACEHOLDER_SIZE, None, error.reason)
        return _Photo(f"p{number}", image_id, small.size, small.data_uri)

    with ThreadPoolExecutor() as pool:
        loaded = pool.map(load, range(len(ids)), ids, [photo(image_id) for image_id in ids])
        return dict(zip(ids, loaded, strict=True))


def _pairs(
    links: Iterable[tuple[str, str]],
    photos: Mapping[str, _Photo],
    correspondences: Callable[[str, str], Correspondences],
) -> dict[tuple[str, str], _Pair]:
    """Every link on the page by its two ids; nothing is drawn where a photo's size is unknown."""
    pairs = {}
    for number, (source_id, target_id) in enumerate(links):
        source, target = photos[source_id], photos[target_id]
        drawn: tuple[Strand, ...] = ()
        if source.picture and target.picture:
            drawn = strands(correspondences(source_id, target_id), source.size, target.size)
        pairs[source_id, target_id] = _Pair(
            f"c{number}",
            source,
            target,
            Frame.of(source.size, target.size),
            drawn,
            sum(strand.lines.count("M") for strand in drawn),
        )
    return pairs


def _methods(table: Sequence[MethodRow]) -> list[tuple[str, dict[str, _Cell], float]]:
    """The table's rows with gains and the best of each protocol."""
    best: dict[str, float] = {}
    for _, measures, _ in table:
        for protocol, measured in measures.items():
            best[protocol] = max(best.get(protocol, 0.0), measured["mAP"])
    rows = []
    before: Mapping[str, Mapping[str, float]] = {}
    for name, measures, seconds in table:
        cells = {
            protocol: _Cell(
                measured["mAP"],
                measured.get("mP@10"),
                measured["mAP"] - before[protocol]["mAP"] if protocol in before else None,
                measured["mAP"] == best[protocol],
            )
            for protocol, measured in measures.items()
        }
        rows.append((name, cells, seconds))
        before = measures
    return rows
