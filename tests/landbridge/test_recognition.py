import pytest
from hypothesis import given
from hypothesis import strategies as st

from landbridge.recognition import Recognition, landmark_labels, recognise
from landbridge.results import Hit, Link, Ranking, hit_confidence

LABELS = {"t1": "tower", "t2": "tower", "t3": "tower", "g1": "gate", "g2": "gate"}


def verified(image, confidence):
    return Hit(image, 1.0, "verified", (Link("q", image, 20, confidence),), confidence)


def similar(image, similarity):
    return Hit(image, similarity, "similar", (), hit_confidence([], similarity))


def vote(*hits):
    return recognise(Ranking("q", hits), LABELS)


def test_one_neighbour():
    assert vote(verified("t1", 0.75)) == Recognition("tower", 0.75)


def test_agreement_and_dissent_by_hand():
    # Two for the tower: 1 - .5 * .4 = .8, and nothing against it.
    assert vote(verified("t1", 0.5), verified("t2", 0.6)) == Recognition("tower", pytest.approx(0.8))
    # And .7 for the gate: .8 of 1.5.
    found = vote(verified("g1", 0.7), verified("t1", 0.5), verified("t2", 0.6))
    assert found == Recognition("tower", pytest.approx(0.8 * 0.8 / 1.5))
    found = vote(verified("g1", 0.9), verified("t1", 0.5), verified("t2", 0.6))
    assert found == Recognition("gate", pytest.approx(0.9 * 0.9 / 1.7))


def test_photos_that_show_no_landmark_vote_for_none():
    found = vote(verified("t1", 0.9), verified("bench", 0.6))
    assert found == Recognition("tower", pytest.approx(0.9 * 0.9 / 1.5))
    assert vote(verified("t1", 0.6), verified("bench", 0.9)) is None


def bridged(image, similarity):
    chain = (Link("q", "t1", 20, 0.8), Link("t1", image, 20, 1.0))
    return Hit(image, 1.0, "bridged", chain, hit_confidence(chain, similarity))


def test_bridged_photos_do_not_vote_beside_verified_ones():
    assert vote(bridged("g1", 1.0), bridged("g2", 1.0), verified("t1", 0.5)) == Recognition("tower", 0.5)
    # Alone, the surest of them decides, wherever it stands: .8 * 1 * .5.
    assert vote(similar("t1", 0.9), bridged("g1", 0.5)) == Recognition("gate", pytest.approx(0.4))


def test_likeness_counts_only_where_nothing_is_verified():
    assert vote(similar("g1", 0.9), similar("g2", 0.8), verified("t1", 0.5)) == Recognition("tower", 0.5)
    found = vote(similar("t1", 0.5), similar("g1", 0.4), similar("g2", 0.3))
    assert found == Recognition("tower", pytest.approx(0.05))
    assert vote(similar("bench", 0.5), similar("g1", 0.4)) is None
    assert vote(similar("t1", -0.1)) is None
    assert vote() is None


def test_equal_votes_go_by_name():
    assert vote(verified("t1", 0.5), verified("g1", 0.5)).label == "gate"


@given(st.lists(st.tuples(st.sampled_from([*LABELS, "bench"]), st.floats(0.5, 1)), min_size=1, max_size=8))
def test_the_confidence_is_a_probability_and_agreement_raises_it(votes):
    hits = [verified(image, confidence) for image, confidence in votes]
    found = vote(*hits)
    if found is not None:
        assert 0 < found.confidence <= 1
        other = next(image for image, label in LABELS.items() if label == found.label)
        assert vote(*hits, verified(other, 0.9)).confidence >= found.confidence - 1e-12


class TestLabels:
    def test_the_first_folder(self):
        assert landmark_labels(["tower/1", "tower/night/2", "alone"]) == {
            "tower/1": "tower", "tower/night/2": "tower",
        }  # fmt: skip
        with pytest.raises(ValueError, match="their ids have no folders; give a CSV with the columns"):
            landmark_labels(["1", "2"])

    def test_a_table(self, tmp_path):
        (tmp_path / "train.csv").write_text("id,landmark_id\n1,7\n2,\n3,9\n")
        assert landmark_labels(["2", "1"], tmp_path / "train.csv") == {"1": "7"}
        with pytest.raises(ValueError, match=r"1 of 2 index photos have no row in .*train.csv: 4; add them"):
            landmark_labels(["1", "4"], tmp_path / "train.csv")
        (tmp_path / "train.csv").write_text("id,label\n1,7\n")
        with pytest.raises(ValueError, match="has no column landmark_id"):
            landmark_labels(["1"], tmp_path / "train.csv")
