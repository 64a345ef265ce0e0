import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landbridge.results import AttachedRanking, Hit, Link, hit_confidence


def links(*confidences):
    return [Link(str(place), str(place + 1), 20, c) for place, c in enumerate(confidences)]


def test_by_hand():
    assert hit_confidence(links(0.9), 0.2) == 0.9
    assert hit_confidence(links(0.9, 0.8), 0.5) == pytest.approx(0.36)
    assert hit_confidence(links(0.9, 0.8, 0.5), 0.5) == pytest.approx(0.18)
    assert hit_confidence([], 0.5) == pytest.approx(0.05)
    assert hit_confidence([], 1.001) == 0.1
    assert hit_confidence([], -0.5) == hit_confidence(links(0.9, 0.9), -0.1) == 0


@given(st.lists(st.floats(0, 1), max_size=5), st.floats(-1.5, 1.5))
def test_it_is_a_probability(confidences, similarity):
    assert 0 <= hit_confidence(links(*confidences), similarity) <= 1


@given(st.floats(-1, 1), st.floats(0.5, 1))
def test_likeness_is_worth_less_than_a_verified_pair(similarity, confidence):
    assert hit_confidence([], similarity) < hit_confidence(links(confidence), 0.0)


def test_how_a_photo_was_found_in_words():
    chain = (Link("q", "a", 31, 0.9), Link("a", "b", 20, 0.8), Link("b", "c", 20, 0.8))
    assert Hit("a", 1.0, "verified", chain[:1]).reason == "verified, 31 inliers"
    assert Hit("c", 1.0, "bridged", chain).reason == "bridged over a → b"
    assert Hit("d", 0.2, "similar").reason == "similar"


def test_a_ranking_of_theirs_as_json():
    hit = Hit("7", 0.5, "similar", fields={"pk": 7, "city": "Köln"})
    ranking = AttachedRanking("q", (hit,), (7,), {9: "no such file"})
    assert json.loads(ranking.to_json()) == {
        "query_id": "q",
        "hits": [
            {
                "image_id": "7",
                "score": 0.5,
                "how": "similar",
                "chain": [],
                "confidence": 0.0,
                "fields": {"pk": 7, "city": "Köln"},
            }
        ],
        "ids": [7],
        "unavailable": {"9": "no such file"},
    }
    assert hash(ranking) == hash(AttachedRanking("q", (hit,), (7,)))
