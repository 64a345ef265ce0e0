import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking import id_qe
from ranking.id_qe import ITERATIONS, PARTNERS, expand, expand_file
from ranking.match_graph import MatchGraph


def graph_of(images, edges):
    pairs = np.array([(i, j) for i, j, _ in edges], np.int64).reshape(-1, 2)
    return MatchGraph.from_pairs(images, pairs, np.array([c for _, _, c in edges], np.float32), minimum=0.0)


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def expand_one_by_one(descriptors, confidence, iterations, partners):
    """The formula, image by image: `confidence` is a dense matrix, 0 where there is no edge."""
    now = descriptors.astype(np.float64)
    for _ in range(iterations):
        after = now.copy()
        for i in range(len(now)):
            neighbours = [j for j in range(len(now)) if confidence[i, j] > 0]
            for j in sorted(neighbours, key=lambda j, i=i: (-confidence[i, j], j))[:partners]:
                after[i] += confidence[i, j] * now[j]
            after[i] /= np.linalg.norm(after[i])
        now = after
    return now


@st.composite
def graphs(draw):
    """Few values of confidence, so that ties at the cut are common."""
    images = draw(st.integers(1, 9))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True, max_size=20)) if possible else []
    return images, [(i, j, draw(st.sampled_from([0.25, 0.5, 0.75, 1.0]))) for i, j in chosen]


def test_one_step_by_hand():
    descriptors = np.array([[1, 0], [0, 1]], np.float32)
    moved = expand(descriptors, graph_of(2, [(0, 1, 0.75)]), iterations=1)
    assert moved.dtype == np.float32
    assert moved == pytest.approx(np.array([[0.8, 0.6], [0.6, 0.8]]))


def test_all_images_move_at_once():
    # Second step of the above: (.8, .6) + .75 (.6, .8) = (1.25, 1.2), not what the first had become.
    moved = expand(np.array([[1, 0], [0, 1]], np.float32), graph_of(2, [(0, 1, 0.75)]), iterations=2)
    assert moved == pytest.approx(unit([[1.25, 1.2], [1.2, 1.25]]))


@settings(deadline=None, max_examples=80)
@given(graphs(), st.integers(0, 3), st.integers(1, 4), st.integers(0, 2**32 - 1), st.data())
def test_as_by_the_formula(case, iterations, partners, seed, data):
    images, edges = case
    random = np.random.default_rng(seed)
    descriptors = unit(np.abs(random.normal(size=(images, 6))))
    closed = data.draw(st.lists(st.integers(0, images - 1), unique=True, max_size=2))
    graph = graph_of(images, edges).without_bridges(np.array(closed, np.int64))
    confidence = graph.matrix().toarray()
    assert not confidence[:, closed].any()
    expected = expand_one_by_one(descriptors, confidence, iterations, partners)
    moved = expand(descriptors, graph, iterations, partners)
    assert moved == pytest.approx(expected, abs=1e-5)


def test_the_given_descriptors_are_left_alone():
    descriptors = unit(np.eye(3))
    expand(descriptors, graph_of(3, [(0, 1, 1.0)]))
    assert (descriptors == np.eye(3)).all()


def test_the_most_confident_partners_count_and_the_first_of_equals():
    descriptors = np.eye(5, dtype=np.float32)
    edges = [(0, 1, 0.5), (0, 2, 1.0), (0, 3, 0.5), (0, 4, 0.25)]
    moved = expand(descriptors, graph_of(5, edges), iterations=1, partners=2)
    assert moved[0] == pytest.approx(unit([1, 0.5, 1, 0, 0]))
    # The cut is the image's own: what image 4 is moved by does not depend on what moves image 0.
    assert moved[4] == pytest.approx(unit([0.25, 0, 0, 0, 1]))


def test_a_bridge_pulls_two_unlike_photos_together():
    # Front and back share nothing; the photo of the corner was verified with both.
    front, corner, back, stranger = 0, 1, 2, 3
    descriptors = unit([[1, 0, 0], [0.1, 0.1, 1], [0, 1, 0], [0.6, -0.6, 0.2]])
    graph = graph_of(4, [(front, corner, 1.0), (corner, back, 1.0)])
    assert descriptors[front] @ descriptors[back] == 0
    assert descriptors[front] @ descriptors[stranger] > 0.5
    moved = expand(descriptors, graph)
    similarity = moved @ moved[front]
    assert similarity[back] > 0.8
    assert similarity[back] > similarity[stranger]
    farther = expand(descriptors, graph, iterations=ITERATIONS + 2)
    assert farther[front] @ farther[back] > similarity[back]


def test_images_without_neighbours_stay():
    descriptors = unit(np.random.default_rng(5).normal(size=(6, 8)))
    moved = expand(descriptors, graph_of(6, [(1, 4, 1.0)]))
    for image in (0, 2, 3, 5):
        assert moved[image] == pytest.approx(descriptors[image], abs=1e-6)
    assert moved[1] @ descriptors[1] < 0.99


def test_online_queries_are_moved_and_move_nobody():
    random = np.random.default_rng(6)
    descriptors = unit(random.normal(size=(7, 8)))
    index = [(0, 1, 0.9), (1, 2, 0.8), (3, 4, 0.7)]
    queries = [(5, 0, 1.0), (5, 3, 1.0), (6, 4, 0.9), (5, 6, 1.0)]
    alone = expand(descriptors[:5], graph_of(5, index))
    online = expand(descriptors, graph_of(7, index + queries).without_bridges(np.array([5, 6])))
    assert online[:5] == pytest.approx(alone, abs=1e-6)
    # The other query changes nothing for a query either.
    single = expand(descriptors[:6], graph_of(6, [*index, *queries[:2]]).without_bridges(np.array([5])))
    assert online[5] == pytest.approx(single[5], abs=1e-6)
    assert online[5] @ descriptors[5] < 0.99
    offline = expand(descriptors, graph_of(7, index + queries))
    assert np.abs(offline[:5] - alone).max() > 0.05


def test_more_neighbours_than_partners_by_default():
    images = PARTNERS + 3
    descriptors = np.eye(images, dtype=np.float32)
    edges = [(0, j, 0.5 + j / (4 * images)) for j in range(1, images)]
    moved = expand(descriptors, graph_of(images, edges), iterations=1)
    assert np.flatnonzero(moved[0]).tolist() == [0, *range(3, images)]


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="2 descriptors, but the match graph has 3 images"):
        expand(np.eye(2, dtype=np.float32), graph_of(3, []))


def test_somebody_must_take_part():
    with pytest.raises(ValueError, match="partners must be 1 or more, got 0"):
        expand(np.eye(2, dtype=np.float32), graph_of(2, [(0, 1, 1.0)]), partners=0)


def random_case(images=100, dimensions=24, edges=600):
    random = np.random.default_rng(11)
    pairs = np.unique(np.sort(random.integers(0, images, (edges, 2)), 1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    graph = MatchGraph.from_pairs(images, pairs, random.random(len(pairs)).astype(np.float32), minimum=0.0)
    return unit(random.normal(size=(images, dimensions))).astype(np.float16), graph


def from_file(folder, descriptors, graph, *arguments, **options):
    np.save(folder / "source.npy", descriptors)
    expand_file(folder / "source.npy", folder / "target.npy", graph, *arguments, **options)
    moved = np.load(folder / "target.npy")
    assert (moved.dtype, moved.shape) == (np.float16, descriptors.shape)
    return moved


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 200), st.data())
def test_out_of_core_as_in_memory(tmp_path_factory, case, iterations, partners, dimensions, memory, data):
    images, edges = case
    graph = graph_of(images, edges)
    seed = data.draw(st.integers(0, 2**32 - 1))
    descriptors = unit(np.random.default_rng(seed).random((images, dimensions))).astype(np.float16)
    moved = from_file(tmp_path_factory.mktemp("file"), descriptors, graph, iterations, partners, memory)
    expected = expand(descriptors.astype(np.float32), graph, iterations, partners)
    assert np.abs(moved - expected).max() <= (2 * iterations + 1) * 2.0**-11


@pytest.mark.parametrize("memory", [1, 3000, 9600, 1 << 20])
def test_stripes_make_no_difference(tmp_path, memory, monkeypatch):
    descriptors, graph = random_case()
    monkeypatch.setattr(id_qe, "_ROWS", 16)
    moved = from_file(tmp_path, descriptors, graph, iterations=1, memory=memory)
    expected = expand(descriptors.astype(np.float32), graph, iterations=1)
    # Rounded twice to 11 bits.
    assert (np.abs(moved - expected) <= 2.0**-10 * np.abs(expected) * 1.01 + 1e-7).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_out_of_core_on_any_number_of_threads(tmp_path, threads, monkeypatch):
    descriptors, graph = random_case()
    expected = from_file(tmp_path, descriptors, graph, memory=2000)
    monkeypatch.setattr(id_qe, "_ROWS", 9)
    assert (from_file(tmp_path, descriptors, graph, memory=2000, threads=threads) == expected).all()


def test_out_of_core_keeps_to_its_memory(tmp_path, monkeypatch):
    descriptors, graph = random_case(images=2000, dimensions=4096)
    monkeypatch.setattr(id_qe, "_ROWS", 16)
    from_file(tmp_path, descriptors, graph, iterations=1)
    memory = descriptors.nbytes // 4
    tracemalloc.start()
    expand_file(tmp_path / "source.npy", tmp_path / "target.npy", graph, iterations=2, memory=memory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < memory + 1_000_000


def test_an_image_without_a_descriptor_stays_without_one(tmp_path):
    moved = from_file(tmp_path, np.array([[0, 0], [0.6, 0.8]], np.float16), graph_of(2, []))
    assert moved == pytest.approx(np.array([[0, 0], [0.6, 0.8]]), abs=1e-3)


def test_a_file_may_be_replaced_by_its_expansion(tmp_path):
    descriptors, graph = random_case()
    expected = from_file(tmp_path, descriptors, graph)
    expand_file(tmp_path / "source.npy", tmp_path / "source.npy", graph)
    assert (np.load(tmp_path / "source.npy") == expected).all()


def test_a_failure_leaves_the_target_as_it_was(tmp_path, monkeypatch):
    descriptors, graph = random_case()
    before = from_file(tmp_path, descriptors, graph)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(id_qe, "_scale", full)
    with pytest.raises(OSError, match="no space"):
        expand_file(tmp_path / "source.npy", tmp_path / "target.npy", graph, iterations=1)
    assert (np.load(tmp_path / "target.npy") == before).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.npy", "target.npy"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (np.eye(3, dtype=np.float32), r"source.npy must hold rows of float16, got float32 \[3, 3\]"),
        (np.zeros(3, np.float16), r"must hold rows of float16, got float16 \[3\]"),
        (np.asfortranarray(np.ones((3, 2), np.float16)), "row after row, got columns"),
        (np.eye(2, dtype=np.float16), "2 descriptors in .*source.npy, but the match graph has 3 images"),
    ],
)
def test_what_a_file_must_hold(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        from_file(tmp_path, content, graph_of(3, []))
    assert not (tmp_path / "target.npy").exists()


def test_every_half_has_its_value():
    bits = np.arange(2**16, dtype=np.uint16)
    values = bits.view(np.float16).astype(np.float32)
    for number in bits[np.isfinite(values)]:
        assert id_qe._single(number) == values[number]
        assert id_qe._half(values[number]) == number


def test_rounding_to_halves_as_numpy_does():
    """Between any two neighbouring halves: in the middle, and right beside it."""
    halves = np.arange(0, np.float16(32).view(np.uint16), dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[1:] + halves[:-1]) / 2
    for values in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(99))):
        expected = values.astype(np.float16)
        # Below the least normal half, what is right beside the middle may count as the middle.
        normal = expected > 2.0**-14
        for value, half in zip(values[normal], expected[normal].view(np.uint16), strict=True):
            assert id_qe._half(value) == half
            assert id_qe._half(-value) == half | 0x8000
