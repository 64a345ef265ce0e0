import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.metrics import PrecisionRecall, Truth, global_average_precision, pooled_precision_recall

TRUTHS = {
    "a": Truth(frozenset({"p1", "p2"}), frozenset({"j"})),
    "b": Truth(frozenset({"p3"})),
    "none": Truth(frozenset()),
}
RANKINGS = {"a": ["p1", "n", "j", "p2"], "b": ["n", "p3"], "none": ["n", "p1"]}
SCORES = {"a": [0.9, 0.6, 0.95, 0.3], "b": [0.2, 0.7], "none": [0.8, 0.1]}


def test_by_hand():
    # .9 right, .8 wrong (nothing to find), .7 right, .6 wrong, .3 right, .2 wrong, .1 wrong; .95 is junk.
    curve = pooled_precision_recall(RANKINGS, SCORES, TRUTHS)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.1]
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4, 3 / 5, 3 / 6, 3 / 7])
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    assert curve.area == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert curve.recall_at_precision(0.9) == pytest.approx(1 / 3)
    assert curve.recall_at_precision(2 / 3 - 1e-9) == pytest.approx(2 / 3)
    assert curve.recall_at_precision(0.6 - 1e-9) == 1
    assert curve.recall_at_precision(0) == 1


def test_equal_scores_are_taken_together():
    # One threshold takes the right and the wrong one: a single point at precision 1/2, whatever the order.
    for scores in ({"a": [0.5], "none": [0.5]}, {"none": [0.5], "a": [0.5]}):
        curve = pooled_precision_recall({"a": ["p1"], "none": ["n"]}, scores, TRUTHS)
        assert (curve.precision.tolist(), curve.recall.tolist()) == ([0.5], [1 / 3])
        assert curve.area == pytest.approx(1 / 6)


def test_a_second_column_breaks_ties():
    scores = {"a": [(0.5, 1.0)], "none": [(0.5, 2.0)], "b": np.zeros((0, 2))}
    curve = pooled_precision_recall({"a": ["p1"], "none": ["n"], "b": []}, scores, TRUTHS)
    assert curve.precision.tolist() == [0, 0.5]
    assert curve.thresholds.tolist() == [0.5, 0.5]
    # The first column goes before.
    scores["a"] = [(0.6, 1.0)]
    assert pooled_precision_recall({"a": ["p1"], "none": ["n"]}, scores, TRUTHS).precision.tolist() == [
        1,
        0.5,
    ]


def test_repeats_and_what_is_both_junk_and_positive():
    truths = {"a": Truth(frozenset({"p"}), frozenset({"p", "j"}))}
    curve = pooled_precision_recall({"a": np.array(["p", "p", "j"])}, {"a": [3, 2, 9]}, truths)
    assert curve.precision.tolist() == [1, 0.5]


def test_queries_with_too_few_positives_are_left_out_and_those_without_stay():
    curve = pooled_precision_recall(RANKINGS, SCORES, TRUTHS, min_positives=2)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.6, 0.3, 0.1]
    assert curve.recall.tolist() == [0.5, 0.5, 0.5, 1, 1]


def test_nothing_found():
    curve = pooled_precision_recall({"a": []}, {}, TRUTHS)
    assert (len(curve.thresholds), curve.area, curve.recall_at_precision(0.5)) == (0, 0, 0)


def test_no_threshold_is_precise_enough():
    curve = PrecisionRecall(np.array([0.5]), np.array([0.8]), np.array([1.0]))
    assert curve.recall_at_precision(0.9) == 0
    assert curve.recall_at_precision(0.8) == 1
    with pytest.raises(ValueError, match="precision must be between 0 and 1, got 90"):
        curve.recall_at_precision(90)


drawn = st.dictionaries(
    st.integers(0, 8),
    st.tuples(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.1, 0.4, 0.5, 0.9])), max_size=6),
        st.frozensets(st.integers(0, 6), max_size=3),
        st.frozensets(st.integers(0, 6), max_size=3),
    ),
)


@given(drawn)
def test_against_the_sums_written_out(drawn):
    truths = {query: Truth(positives, junk) for query, (_, positives, junk) in drawn.items()}
    truths[99] = Truth(frozenset({0}))
    rankings = {query: [item for item, _ in hits] for query, (hits, _, _) in drawn.items()}
    scores = {query: [score for _, score in hits] for query, (hits, _, _) in drawn.items()}
    pooled = []
    for hits, positives, junk in drawn.values():
        seen = set()
        for item, score in hits:
            if item in positives or item not in junk:
                pooled.append((score, item in positives and item not in seen))
                seen.add(item)
    total = sum(len(truth.positives) for truth in truths.values())
    curve = pooled_precision_recall(rankings, scores, truths)
    thresholds = sorted({score for score, _ in pooled}, reverse=True)
    assert curve.thresholds.tolist() == thresholds
    for place, threshold in enumerate(thresholds):
        taken = [right for score, right in pooled if score >= threshold]
        assert curve.precision[place] == pytest.approx(sum(taken) / len(taken))
        assert curve.recall[place] == pytest.approx(sum(taken) / total)


@given(st.permutations(range(12)))
def test_the_area_is_the_global_average_precision(order):
    """One result for each query and no equal scores: the same sum as GAP."""
    truths = {query: Truth(frozenset({0}) if query % 3 else frozenset()) for query in range(12)}
    found = {query: order[query] % 2 for query in range(12)}
    curve = pooled_precision_recall(
        {query: [item] for query, item in found.items()}, {q: [order[q]] for q in found}, truths
    )
    gap = global_average_precision(
        {query: (item, order[query]) for query, item in found.items()},
        {query: truth.positives for query, truth in truths.items()},
    )
    assert curve.area == pytest.approx(gap)


@pytest.mark.parametrize(
    ("rankings", "scores", "truths", "message"),
    [
        ({"z": []}, {}, TRUTHS, r"rankings are for queries without truth, such as \['z'\]"),
        ({}, {}, {"none": Truth(frozenset())}, "recall is undefined: none of 1 queries has positives"),
        ({"a": ["p1"]}, {}, TRUTHS, "query 'a' has 1 results and 0 scores"),
        ({"a": ["p1"]}, {"a": [float("nan")]}, TRUTHS, "a score of query 'a' is NaN"),
        (
            {"a": ["p1"], "b": ["n"]},
            {"a": [1], "b": [(1, 2)]},
            TRUTHS,
            "1 columns for some queries and 2 for",
        ),
    ],
)
def test_wrong_arguments_are_refused(rankings, scores, truths, message):
    with pytest.raises(ValueError, match=message):
        pooled_precision_recall(rankings, scores, truths)
