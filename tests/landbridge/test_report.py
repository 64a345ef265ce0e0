from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from landbridge.report import write_report
from landbridge.report.drawing import MOST_LINES, STRANDS, Frame, evenly_chosen, strands
from landbridge.results import Correspondences, Hit, Link, Ranking

VOID = {"meta", "input", "br", "wbr", "link", "img"}


class Node:
    def __init__(self, tag, attrs=()):
        self.tag, self.attrs, self.children = tag, dict(attrs), []

    @property
    def classes(self):
        return (self.attrs.get("class") or "").split()

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self):
        return " ".join(self.text.split())

    def all(self, tag=None, kind=None):
        for child in self.children:
            if isinstance(child, Node):
                if tag in (None, child.tag) and (kind is None or kind in child.classes):
                    yield child
                yield from child.all(tag, kind)

    def one(self, tag=None, kind=None):
        (found,) = self.all(tag, kind)
        return found

    def by_id(self, value):
        (found,) = (node for node in self.all() if node.attrs.get("id") == value)
        return found


class Tree(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.root = Node("root")
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert [node.tag for node in self.open] == ["root"], "unbalanced tags"

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


class World:
    """Photos of one colour each; every pair has the correspondences that its links claim."""

    def __init__(self, folder):
        self.folder, self.files, self.asked = folder, {}, []

    def add(self, *image_ids, size=(40, 30)):
        for image_id in image_ids:
            number = len(self.files)
            path = self.folder / f"{number}.jpg"
            Image.new("RGB", size, (40 * number % 256, 80, 255 - 30 * number % 256)).save(path)
            self.files[image_id] = path

    def correspondences(self, source, target):
        self.asked.append((source, target))
        points = np.arange(10, dtype=np.float32).reshape(5, 2)
        return Correspondences(points, points)

    def write(self, rankings, name="report.html", **options):
        path = self.folder / "out" / name
        options.setdefault("correspondences", self.correspondences)
        self.report = write_report(path, rankings, photo=self.files.__getitem__, **options)
        self.html = path.read_text(encoding="utf-8")
        return Tree(self.html).root


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def link(source, target, inliers):
    return Link(source, target, inliers, 0.75)


def verified(query, image, inliers, score=1.0):
    return Hit(image, score, "verified", (link(query, image, inliers),))


def bridged(*stops, inliers):
    chain = tuple(link(a, b, n) for a, b, n in zip(stops[:-1], stops[1:], inliers, strict=True))
    return Hit(stops[-1], 1.0, "bridged", chain)


@pytest.fixture
def two_queries(world):
    """Query q over bridges to c and d, query r without any."""
    world.add("q", "r", "a", "b", "c", "d", "e")
    return [
        Ranking(
            "q",
            (
                verified("q", "a", 91),
                bridged("q", "a", "b", "c", inliers=(91, 62, 33)),
                bridged("q", "a", "b", inliers=(91, 62)),
                bridged("q", "a", "d", inliers=(91, 44)),
                Hit("e", 0.125, "similar"),
            ),
        ),
        Ranking("r", (Hit("e", 0.5, "similar"), Hit("a", 0.25, "similar"))),
    ]


def queries(page):
    return list(page.all("section", "query"))


def tiles(section):
    return list(section.all("li", "hit"))


def test_photos_stand_in_order_with_rank_and_the_way_they_were_found(world, two_queries):
    first, second = queries(world.write(two_queries))
    assert [section.one("h2").text for section in (first, second)] == ["q", "r"]
    assert [tile.attrs["data-id"] for tile in tiles(first)] == ["a", "c", "b", "d", "e"]
    assert [tile.one(kind="rank").text for tile in tiles(first)] == ["1", "2", "3", "4", "5"]
    assert [tile.one(kind="badge").words for tile in tiles(first)] == [
        "91 inliers",
        "over 2 photos",
        "over 1 photo",
        "over 1 photo",
        "similar only",
    ]
    assert [tile.attrs["data-id"] for tile in tiles(second)] == ["e", "a"]
    assert [tile.one(kind="badge").words for tile in tiles(second)] == ["similar only"] * 2


def test_chains_are_strips_with_inliers_and_a_drawing_of_each_pair(world, two_queries):
    first, second = queries(world.write(two_queries))
    assert [chain.attrs["data-id"] for chain in first.all("details")] == ["c", "b", "d"]
    assert [("open" in chain.attrs) for chain in first.all("details")] == [True, False, False]
    assert not list(second.all("details"))

    chain = next(first.all("details"))
    strip, pairs = chain.one(kind="strip"), list(chain.all("figure", "pair"))
    assert [stop.one(kind="id").text for stop in strip.all(kind="stop")] == ["query", "a", "b", "c"]
    assert [step.words for step in strip.all(kind="link")] == ["91 inliers", "62 inliers", "33 inliers"]
    ends = [(pair.attrs["data-source"], pair.attrs["data-target"]) for pair in pairs]
    assert ends == [("q", "a"), ("a", "b"), ("b", "c")]
    assert [pair.one(kind="count").words for pair in pairs] == ["91 inliers", "62 inliers", "33 inliers"]
    assert [pair.one("use").attrs["href"] for pair in pairs] == ["#c0", "#c1", "#c2"]
    assert "5 drawn · confidence 0.75" in pairs[0].words


def test_a_pair_is_asked_for_and_drawn_once(world, two_queries):
    page = world.write(two_queries)
    assert sorted(world.asked) == [("a", "b"), ("a", "d"), ("b", "c"), ("q", "a")]
    symbols = [node.attrs["id"] for node in page.all("symbol") if re.fullmatch(r"c\d+", node.attrs["id"])]
    assert symbols == ["c0", "c1", "c2", "c3"]
    uses = [node.attrs["href"] for section in queries(page) for node in section.all("use")]
    assert uses.count("#c0") == 4
    assert page.by_id("c0").one("g", "s1").one("path", "ends")


def test_every_photo_can_be_opened_beside_its_query(world, two_queries):
    page = world.write(two_queries)
    for section in queries(page):
        for tile in tiles(section):
            way = page.by_id(tile.one("button").attrs["data-way"])
            pictures = next(way.all("div", "canvas")).all(kind="photo")
            assert next(picture.attrs["aria-label"] for picture in pictures) == section.one("h2").text
    assert "0.125" in page.by_id("q1-5").words
    assert not list(page.by_id("q1-5").all("use"))


def test_each_photo_is_embedded_once(world, two_queries):
    page = world.write(two_queries)
    pictures = re.findall(r"url\((data:image/jpeg;base64,[^)]*)\)", world.html)
    assert len(pictures) == world.html.count("data:image/jpeg") == 7
    assert len(set(pictures)) == 7
    shown = [name for node in page.all(kind="photo") for name in node.classes if name != "photo"]
    assert set(shown) == {f"p{number}" for number in range(7)}
    assert len(shown) > 20
    assert world.report.size == len(world.html.encode())
    assert world.report.unreadable == {}


def test_hostile_ids_and_titles_stay_text(world):
    script = "<script>alert(1)</script>"
    hostile = [
        script,
        "\"><img src=x onerror='alert(1)'>",
        "Plâtz «Ω» 広場 \u202egpj.x",
        "a b&amp;c{{ 7*7 }}",
        "</style>",
    ]
    world.add(*hostile)
    page = world.write(
        [
            Ranking(script, tuple(Hit(image_id, 0.5, "similar") for image_id in hostile[3:])),
            Ranking(hostile[1], (bridged(hostile[1], hostile[2], script, inliers=(30, 20)),)),
        ],
        title=f"</title>{script}",
        facts={script: script},
        table=[(script, {script: {"mAP": 1.0}}, 1.0)],
    )
    assert page.one("title").text == f"</title>{script}"
    assert page.one("h1").text == f"</title>{script}"
    assert len(list(page.all("script"))) == 1
    assert not list(page.all("img"))
    assert not [name for node in page.all() for name in node.attrs if name.startswith("on")]
    first, second = queries(page)
    assert [section.one("h2").text for section in (first, second)] == [script, hostile[1]]
    assert [tile.attrs["data-id"] for tile in tiles(first)] == hostile[3:]
    assert [tile.one(kind="id").text for tile in tiles(first)] == hostile[3:]
    stops = [stop.one(kind="id").text for stop in second.all(kind="stop")]
    assert stops == ["query", hostile[2], script]
    assert page.one("dl", "facts").one("dd").text == script
    assert page.one("tbody").one("th").text == script


def test_an_id_of_undecodable_bytes_is_written(world):
    image_id = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    world.add(image_id)
    page = world.write([Ranking(image_id, ())])
    assert queries(page)[0].one("h2").text == "caf?.jpg"


def test_nothing_is_loaded_from_elsewhere_and_only_its_own_script_runs(world, two_queries):
    page = world.write(two_queries, table=[("global", {"all": {"mAP": 50.0}}, 1.0)])
    assert "://" not in world.html.replace("http://www.w3.org/2000/svg", "")
    for node in page.all():
        assert not {"src", "srcset", "action", "data", "poster", "background"} & node.attrs.keys()
        assert node.attrs.get("href", "#").startswith("#")
    assert all(target.startswith(("data:", '"data:')) for target in re.findall(r"url\(([^)]*)\)", world.html))
    assert "@import" not in world.html
    policy = next(node.attrs["content"] for node in page.all("meta") if "http-equiv" in node.attrs)
    digest = base64.b64encode(hashlib.sha256(page.one("script").text.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


def test_links_within_the_page_lead_somewhere(world, two_queries):
    page = world.write(two_queries)
    ids = [node.attrs["id"] for node in page.all() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    assert {node.attrs["href"][1:] for node in page.all() if "href" in node.attrs} <= set(ids)


def test_photos_that_cannot_be_read_get_a_placeholder(world):
    world.add("q", "a")
    world.files["gone"] = world.folder / "gone.jpg"
    world.files["text"] = world.folder / "text.jpg"
    world.files["text"].write_text("no photo")
    page = world.write(
        [Ranking("q", (bridged("q", "a", "gone", inliers=(31, 21)), Hit("text", 0.5, "similar")))]
    )
    assert list(world.report.unreadable) == ["gone", "text"]
    assert world.report.unreadable["gone"] == "no such file"
    shown = [next(tile.all(kind="photo")) for tile in tiles(queries(page)[0])]
    assert ["p-none" in picture.classes for picture in shown] == [True, True]
    assert shown[0].attrs["aria-label"] == "gone: no such file"
    assert world.asked == [("q", "a")]
    to_a, to_gone = page.by_id("q1-1").all("figure", "pair")
    assert to_a.one("use")
    assert not list(to_gone.all("use"))
    assert "21 inliers" in to_gone.words
    assert "cannot be read" in to_gone.words


def test_without_truth_nothing_is_marked(world, two_queries):
    page = world.write(two_queries)
    assert not list(page.all(kind="mark"))
    assert "Right" not in page.by_id("queries").text
    assert [section.attrs["data-gain"] for section in queries(page)] == ["3", "0"]


def test_truth_marks_photos_with_colour_and_symbol(world, two_queries):
    answers = {
        ("q", "a"): True,
        ("q", "b"): True,
        ("q", "c"): np.True_,
        ("q", "d"): False,
        ("r", "a"): np.False_,
    }
    page = world.write(
        two_queries,
        truth=lambda query, image: answers.get((query, image)),
        average_precision={"q": 87.654},
    )
    first, second = queries(page)
    marks = [tile.one(kind="mark") for section in (first, second) for tile in tiles(section)]
    kinds = ["right", "right", "right", "wrong", "unknown", "unknown", "wrong"]
    assert [mark.classes[1] for mark in marks] == kinds
    assert [mark.one("use").attrs["href"] for mark in marks] == [f"#i-{kind}" for kind in kinds]
    assert [mark.attrs["aria-label"] for mark in marks[3:5]] == ["wrong", "not judged"]
    figures = [(figure.one("dt").text, figure.one("dd").text) for figure in first.one("dl").all("div")]
    assert figures == [("Average precision", "87.7"), ("Right of 5 shown", "3"), ("Right over a bridge", "2")]
    assert [section.attrs["data-gain"] for section in (first, second)] == ["2", "0"]
    assert [section.attrs["data-ap"] for section in (first, second)] == ["87.654", ""]
    assert [node.text for node in page.one("nav").all(kind="ap")] == ["87.7"]
    strip = next(first.all(kind="strip"))
    assert [len(list(stop.all(kind="mark"))) for stop in strip.all(kind="stop")] == [0, 1, 1, 1]


def test_a_query_that_bridges_is_named_as_one(world):
    world.add("q", "r", "a")
    rankings = [Ranking("q", (bridged("q", "r", "a", inliers=(30, 40)),)), Ranking("r", ())]
    page = world.write(rankings, truth=lambda query, image: True)
    stops = list(page.one("details").one(kind="strip").all(kind="stop"))
    assert [stop.one(kind="id").text for stop in stops] == ["query", "another query", "a"]
    assert not list(stops[1].all(kind="mark"))


def test_a_query_without_photos_says_so(world):
    world.add("q")
    (section,) = queries(world.write([Ranking("q", ())], truth=lambda query, image: True))
    assert "Nothing was found" in section.one("p", "empty").text
    assert not list(section.all("ol"))


def test_a_report_without_queries_says_so(world):
    page = world.write([])
    assert not queries(page)
    assert "no query" in page.by_id("queries").one("p", "empty").text


def test_limit_leaves_out_the_rest_and_says_so(world, two_queries):
    page = world.write(two_queries, limit=2)
    first = queries(page)[0]
    assert [tile.attrs["data-id"] for tile in tiles(first)] == ["a", "c"]
    assert "the first 2 of 5" in first.words
    assert "the first" not in queries(page)[1].words
    assert ("a", "d") not in world.asked
    with pytest.raises(ValueError, match="limit"):
        world.write(two_queries, limit=0)


def test_a_query_answered_twice_is_refused(world):
    with pytest.raises(ValueError, match="'q'"):
        world.write([Ranking("q", ()), Ranking("q", ())])


def test_the_table_shows_measures_gains_and_bars(world):
    page = world.write(
        [],
        table=[
            ("global", {"medium": {"mAP": 40.0, "mP@10": 51.25}, "hard": {"mAP": 20.0}}, 0.25),
            ("aqe", {"medium": {"mAP": 37.5, "mP@10": 50.0}, "hard": {"mAP": 20.04}}, 12.0),
            ("id-qe", {"medium": {"mAP": 52.5, "mP@10": 60.0}}, 123.4),
        ],
    )
    assert [cell.words for cell in page.one("thead").all("th")] == [
        "Method",
        "mediummAP",
        "mP@10",
        "hardmAP",
        "mP@10",
        "Seconds",
    ]
    rows = list(page.one("tbody").all("tr"))
    assert [[cell.words for cell in row.all() if cell.tag in ("th", "td")] for row in rows] == [
        ["global", "40.0", "51.2", "20.0", "–", "0.2"],
        ["aqe", "37.5 −2.5", "50.0", "20.0 ±0", "–", "12.0"],
        ["id-qe", "52.5 +15.0", "60.0", "–", "–", "123"],
    ]
    bars = [[(bar.classes[0], bar.attrs["style"]) for bar in row.all("i")][:2] for row in rows]
    assert bars[1] == [("kept", "width:37.50%"), ("lost", "width:2.50%")]
    assert bars[2] == [("kept", "width:37.50%"), ("won", "width:15.00%")]
    assert [sum("best" in cell.classes for cell in row.all("td")) for row in rows] == [0, 1, 1]


def test_thumbnails_are_small_upright_jpeg_without_metadata(world):
    photo = Image.new("RGB", (1200, 600), "red")
    photo.paste("blue", (0, 0, 600, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it upright: its left side comes to the top
    exif[0x010E] = "a secret description"
    world.files["q"] = world.folder / "turned.jpg"
    photo.save(world.files["q"], exif=exif)
    world.write([Ranking("q", ())])
    assert "{aspect-ratio:600/1200;" in world.html
    encoded = re.search(r"data:image/jpeg;base64,([^)]*)\)", world.html).group(1)
    small = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert small.size == (192, 384)
    assert not small.getexif()
    red, _, blue = small.getpixel((96, 20))
    assert blue > 200 > 60 > red


def test_photos_shown_large_are_kept_larger(world):
    world.add("q", "a", "b", size=(900, 600))
    world.write([Ranking("q", (verified("q", "a", 30), Hit("b", 0.5, "similar")))])
    pictures = re.findall(r"data:image/jpeg;base64,([^)]*)\)", world.html)
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert sizes == [(384, 256), (384, 256), (320, 213)]


def test_the_same_input_gives_the_same_bytes(world, two_queries):
    world.write(two_queries, name="one.html")
    world.write(two_queries, name="two.html")
    one, two = (world.folder / "out" / name for name in ("one.html", "two.html"))
    assert one.read_bytes() == two.read_bytes()


def test_lines_run_between_the_two_photos_at_one_height():
    # Heights 100 and 200 become 400 units: scales 4 and 2; the second photo begins at 800 + 12.
    pair = Correspondences(np.float32([[50, 25], [0, 100]]), np.float32([[10, 20], [100, 200]]))
    assert Frame.of((200, 100), (100, 200)).width == 800 + 12 + 200
    drawn = strands(pair, (200, 100), (100, 200))
    assert len(drawn) == STRANDS
    assert [strand.lines for strand in drawn if strand.lines] == ["M200 100L832 40", "M0 400L1012 400"]
    assert drawn[0].ends == "M200 100h0M832 40h0"


def test_strands_run_from_top_to_bottom_of_the_first_photo():
    points = np.float32([[5, y] for y in (50, 10, 30, 0, 20, 40)])
    drawn = strands(Correspondences(points, points[::-1]), (100, 100), (100, 100))
    assert [strand.lines.split("L")[0] for strand in drawn] == [
        f"M20 {4 * y}" for y in (0, 10, 20, 30, 40, 50)
    ]


def test_a_pair_without_correspondences_has_no_lines():
    none = np.empty((0, 2), np.float32)
    assert {strand.lines for strand in strands(Correspondences(none, none), (10, 10), (10, 10))} == {""}


def test_at_most_sixty_lines_are_drawn():
    points = np.random.default_rng(0).uniform(0, 100, (500, 2)).astype(np.float32)
    drawn = strands(Correspondences(points, points), (100, 100), (100, 100))
    assert [strand.lines.count("M") for strand in drawn] == [10] * STRANDS
    assert MOST_LINES == 60


def test_points_away_from_the_crowd_are_chosen():
    crowd = np.random.default_rng(0).uniform(0, 1, (500, 2))
    alone = np.array([[x, 100.0] for x in range(0, 200, 20)])
    chosen = evenly_chosen(np.vstack([crowd, alone]).astype(np.float32), 20)
    assert set(range(500, 510)) <= set(chosen.tolist())


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40),
    st.integers(1, 30),
)
def test_chosen_points_are_distinct_and_in_order(points, count):
    chosen = evenly_chosen(np.array(points, np.float32).reshape(-1, 2), count).tolist()
    assert len(chosen) == min(count, len(points))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(len(points)))


def test_rankings_as_json_keep_names_and_order(two_queries):
    ranking = two_queries[0]
    assert ranking.image_ids == ("a", "c", "b", "d", "e")
    assert ranking.hits[1].bridges == ("a", "b")
    assert ranking.hits[0].bridges == ranking.hits[4].bridges == ()
    read = json.loads(ranking.to_json())
    assert read["query_id"] == "q"
    similar = {"image_id": "e", "score": 0.125, "how": "similar", "chain": [], "confidence": 0.0}
    assert read["hits"][4] == similar
    assert read["hits"][1]["chain"][2] == {"source": "b", "target": "c", "inliers": 33, "confidence": 0.75}
    assert json.loads(json.dumps(ranking.as_dict())) == read
    with pytest.raises(ValueError, match="JSON"):
        Ranking("q", (Hit("a", float("nan"), "similar"),)).to_json()


@pytest.mark.parametrize(
    ("how", "chain"),
    [
        ("similar", (link("q", "a", 9),)),
        ("verified", ()),
        ("verified", (link("q", "b", 9), link("b", "a", 9))),
        ("bridged", (link("q", "a", 9),)),
        ("verified", (link("q", "b", 9),)),
        ("bridged", (link("q", "b", 9), link("c", "a", 9))),
    ],
)
def test_a_hit_whose_chain_does_not_lead_to_it_is_refused(how, chain):
    with pytest.raises(ValueError, match="'a'"):
        Hit("a", 1.0, how, chain)


def test_a_chain_that_starts_at_another_query_is_refused():
    with pytest.raises(ValueError, match=r"'q'.*'a'.*'r'"):
        Ranking("q", (verified("r", "a", 9),))


def test_results_do_not_change():
    with pytest.raises(FrozenInstanceError):
        verified("q", "a", 9).score = 2.0


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 3), (3, 3)), ((3,), (3,))])
def test_correspondences_of_another_shape_are_refused(shapes):
    with pytest.raises(ValueError, match=r"\[M, 2\]"):
        Correspondences(*(np.zeros(shape, np.float32) for shape in shapes))


def test_the_report_needs_no_network_library_or_model():
    code = (
        "import sys, landbridge.report; print([m for m in ('torch', 'pymilvus', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folder_of_the_report_is_made(world):
    world.write([])
    assert world.report.path == Path(world.folder, "out", "report.html")
