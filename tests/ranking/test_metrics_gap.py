from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.metrics import global_average_precision


def test_by_hand():
    # Sorted: a right (1/1), b wrong (it shows no landmark), c right (2/3), e wrong label.
    # a, c, d and e show a landmark and d has no prediction: GAP = (1 + 2/3) / 4 = 5/12
    predictions = {"c": (7, 0.7), "e": (1, 0.1), "a": (5, 0.9), "b": (5, 0.8)}
    truth = {"a": {5}, "b": set(), "c": {6, 7}, "d": {8}, "e": {2}}
    assert global_average_precision(predictions, truth) == pytest.approx(5 / 12, abs=1e-15)


def test_ties_go_by_the_id_of_the_query():
    # a is wrong and stands first, so b is right at the second place: (1/2) / 2
    predictions = {"b": ("x", 0.5), "a": ("x", 0.5)}
    assert global_average_precision(predictions, {"a": {"y"}, "b": {"x"}}) == 1 / 4
    assert global_average_precision(predictions, {"a": {"x"}, "b": {"y"}}) == 1 / 2


def test_nothing_predicted():
    assert global_average_precision({}, {"a": {1}}) == 0


def test_all_right_and_all_predicted_is_1():
    truth = {f"{query:02}": {query % 7} for query in range(40)}
    predictions = {query: (next(iter(labels)), -float(query)) for query, labels in truth.items()}
    assert global_average_precision(predictions, truth) == 1


@given(
    st.dictionaries(
        st.integers(0, 30),
        st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.9]), st.frozensets(st.integers(0, 3))),
        min_size=1,
    )
)
def test_against_the_sum_written_out(drawn):
    truth = {query: labels for query, (_, _, labels) in drawn.items()} | {99: {0}}
    predictions = {query: (label, score) for query, (label, score, _) in drawn.items()}
    order = sorted(drawn, key=lambda query: (-drawn[query][1], query))
    total, right = Fraction(0), 0
    for place, query in enumerate(order, start=1):
        if predictions[query][0] in truth[query]:
            right += 1
            total += Fraction(right, place)
    expected = total / sum(bool(labels) for labels in truth.values())
    assert global_average_precision(predictions, truth) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("predictions", "truth", "message"),
    [
        ({}, {"a": set()}, "no query has a landmark label"),
        ({"z": (1, 0.5)}, {"a": {1}}, r"queries without truth, such as \['z'\]"),
        ({"a": (1, float("nan"))}, {"a": {1}}, "the score of query 'a' is NaN"),
    ],
)
def test_wrong_arguments_are_refused(predictions, truth, message):
    with pytest.raises(ValueError, match=message):
        global_average_precision(predictions, truth)
