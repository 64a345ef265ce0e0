from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.metrics import (
    Truth,
    challenge_average_precision,
    evaluate,
    positive_ranks,
    precision_at_k,
    recall_at_k,
    revisited_precision_at_k,
    trapezoidal_average_precision,
)


def walked_average_precision(ranking, positives, junk):
    """The Oxford evaluation as first written down: walk the list, add a trapezoid at every rise of recall."""
    area = Fraction(0)
    old_recall, old_precision = Fraction(0), Fraction(1)
    hits = looked_at = 0
    for item in ranking:
        if item in junk:
            continue
        looked_at += 1
        hits += item in positives
        recall, precision = Fraction(hits, len(positives)), Fraction(hits, looked_at)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def walked_challenge_precision(ranking, positives, limit):
    """mAP@n as the challenge words it: a repeat is skipped, yet the place is used up."""
    seen = set()
    total, hits = Fraction(0), 0
    for place, item in enumerate(ranking[:limit], start=1):
        if item in seen:
            continue
        seen.add(item)
        if item in positives:
            hits += 1
            total += Fraction(hits, place)
    return total / min(len(positives), limit)


@st.composite
def judged_rankings(draw):
    """A complete ranking of 1 to 30 ids, at least one of them positive, some of them junk."""
    ranking = draw(st.permutations(range(draw(st.integers(1, 30)))))
    labels = draw(st.lists(st.sampled_from("pnj"), min_size=len(ranking), max_size=len(ranking)))
    labels[draw(st.integers(0, len(ranking) - 1))] = "p"
    positives = frozenset(item for item, label in zip(ranking, labels, strict=True) if label == "p")
    junk = frozenset(item for item, label in zip(ranking, labels, strict=True) if label == "j")
    return ranking, positives, junk


def trapezoid(ranking, positives, junk=frozenset()):
    return trapezoidal_average_precision(positive_ranks(ranking, positives, junk), len(positives))


class TestPositiveRanks:
    def test_junk_is_taken_out_and_the_rest_moves_up(self):
        # j p n j p  ->  p n p
        ranks = positive_ranks(["j1", "p1", "n", "j2", "p2"], {"p1", "p2"}, {"j1", "j2"})
        assert ranks.tolist() == [0, 2]

    def test_a_repeat_keeps_its_place_and_is_no_hit(self):
        assert positive_ranks(["p1", "p1", "n", "n", "p2"], {"p1", "p2"}).tolist() == [0, 4]

    def test_repeated_junk_is_taken_out_every_time(self):
        assert positive_ranks(["j", "j", "p"], {"p"}, {"j"}).tolist() == [0]

    def test_an_id_in_both_sets_is_a_positive(self):
        assert positive_ranks(["x", "p"], {"x", "p"}, {"x"}).tolist() == [0, 1]

    def test_arrays_of_numbers_and_of_text(self):
        assert positive_ranks(np.array([3, 1, 2]), {1, 2}, {3}).tolist() == [0, 1]
        assert positive_ranks(np.array(["a", "b"]), {"b"}).tolist() == [1]

    def test_nothing_retrieved(self):
        ranks = positive_ranks([], {"p"}, {"j"})
        assert ranks.shape == (0,)
        assert ranks.dtype == np.int64

    @given(judged_rankings(), st.data())
    def test_junk_anywhere_changes_nothing(self, judged, data):
        ranking, positives, junk = judged
        without = [item for item in ranking if item not in junk]
        shuffled = list(without)
        for item in junk:
            shuffled.insert(data.draw(st.integers(0, len(shuffled))), item)
        assert (
            positive_ranks(shuffled, positives, junk).tolist() == positive_ranks(without, positives).tolist()
        )

    @given(judged_rankings(), st.data())
    def test_a_repeat_is_worth_as_much_as_a_wrong_result(self, judged, data):
        ranking, positives, junk = judged
        repeat = data.draw(st.sampled_from([item for item in ranking if item not in junk]))
        place = data.draw(st.integers(ranking.index(repeat) + 1, len(ranking)))
        with_repeat = [*ranking[:place], repeat, *ranking[place:]]
        with_wrong = [*ranking[:place], "wrong", *ranking[place:]]
        ranks = positive_ranks(with_repeat, positives, junk)
        assert ranks.tolist() == positive_ranks(with_wrong, positives, junk).tolist()


class TestTrapezoidalAveragePrecision:
    def test_by_hand(self):
        # Ranking p n p n n, 3 positives, one of them missed. Hits at ranks 0 and 2:
        #   rank 0: precision before 1 (by convention), after 1/1
        #   rank 2: precision before 1/2, after 2/3
        # AP = (1 + 1 + 1/2 + 2/3) / (2 * 3) = (19/6) / 6 = 19/36
        assert trapezoidal_average_precision([0, 2], 3) == pytest.approx(19 / 36, abs=1e-15)

    def test_a_single_positive_at_rank_r(self):
        # No hit before it: (0 / r + 1 / (r + 1)) / 2.
        assert trapezoidal_average_precision([4], 1) == pytest.approx(1 / 10, abs=1e-15)

    def test_nothing_found_is_nothing_earned(self):
        assert trapezoidal_average_precision([], 5) == 0

    @given(judged_rankings())
    def test_against_walking_the_list(self, judged):
        assert trapezoid(*judged) == pytest.approx(float(walked_average_precision(*judged)), abs=1e-12)

    @given(judged_rankings(), st.integers(0, 30))
    def test_a_short_ranking_misses_what_it_does_not_hold(self, judged, length):
        ranking, positives, junk = judged
        expected = walked_average_precision(ranking[:length], positives, junk)
        assert trapezoid(ranking[:length], positives, junk) == pytest.approx(float(expected), abs=1e-12)

    @given(judged_rankings())
    def test_a_perfect_ranking_has_1(self, judged):
        ranking, positives, _ = judged
        assert trapezoid(sorted(ranking, key=lambda item: item not in positives), positives) == 1

    @given(judged_rankings(), st.randoms())
    def test_what_follows_the_last_positive_does_not_matter(self, judged, random):
        ranking, positives, junk = judged
        last = max(ranking.index(item) for item in positives)
        tail = ranking[last + 1 :]
        random.shuffle(tail)
        assert trapezoid(ranking[: last + 1] + tail, positives, junk) == trapezoid(ranking, positives, junk)

    @given(judged_rankings(), st.data())
    def test_a_positive_that_moves_up_past_a_wrong_result_raises_it(self, judged, data):
        ranking, positives, _ = judged
        movable = [
            place
            for place in range(1, len(ranking))
            if ranking[place] in positives and ranking[place - 1] not in positives
        ]
        if not movable:
            assert trapezoid(ranking, positives) == 1
            return
        place = data.draw(st.sampled_from(movable))
        better = list(ranking)
        better[place - 1], better[place] = better[place], better[place - 1]
        assert trapezoid(better, positives) > trapezoid(ranking, positives)

    @pytest.mark.parametrize(
        ("ranks", "positives", "message"),
        [
            ([], 0, "undefined without positives"),
            ([0, 1], 1, "2 ranks for 1 positives"),
            ([1, 1], 2, "strictly increasing"),
            ([2, 1], 2, "strictly increasing"),
            ([-1, 1], 2, "0-based"),
        ],
    )
    def test_impossible_ranks_are_refused(self, ranks, positives, message):
        with pytest.raises(ValueError, match=message):
            trapezoidal_average_precision(ranks, positives)
        with pytest.raises(ValueError, match=message):
            challenge_average_precision(ranks, positives)


class TestChallengeAveragePrecision:
    def test_by_hand(self):
        # p n p n n with 3 positives: (1/1 + 2/3) / min(3, 100) = 5/9
        assert challenge_average_precision([0, 2], 3) == pytest.approx(5 / 9, abs=1e-15)

    def test_more_positives_than_places(self):
        # 4 positives, 2 places, hits at places 2 and 3: only the first counts: (1/2) / min(4, 2) = 1/4
        assert challenge_average_precision([1, 2], 4, limit=2) == pytest.approx(1 / 4, abs=1e-15)

    def test_the_hundredth_place_counts_and_the_next_does_not(self):
        assert challenge_average_precision([99], 1) == pytest.approx(1 / 100, abs=1e-15)
        assert challenge_average_precision([100], 1) == 0

    def test_a_full_first_page_is_perfect_however_many_positives_there_are(self):
        assert challenge_average_precision(range(100), 250) == 1

    def test_duplicates_by_hand(self):
        # p1 p1 p2: the repeat is skipped and p2 stays third: (1/1 + 2/3) / 2 = 5/6
        ranks = positive_ranks(["p1", "p1", "p2"], {"p1", "p2"})
        assert challenge_average_precision(ranks, 2) == pytest.approx(5 / 6, abs=1e-15)

    @given(
        st.lists(st.integers(0, 15), max_size=30),
        st.frozensets(st.integers(0, 20), min_size=1),
        st.integers(1, 25),
    )
    def test_against_walking_the_list(self, ranking, positives, limit):
        score = challenge_average_precision(positive_ranks(ranking, positives), len(positives), limit)
        expected = walked_challenge_precision(ranking, positives, limit)
        assert score == pytest.approx(float(expected), abs=1e-12)

    def test_a_limit_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
            challenge_average_precision([0], 1, limit=0)


class TestPrecisionAtK:
    def test_by_hand(self):
        assert precision_at_k([0, 2, 4], 4) == 2 / 4
        assert precision_at_k([0, 2, 4], 5) == 3 / 5
        assert precision_at_k([], 5) == 0

    def test_revisited_by_hand(self):
        # Positives at places 1 and 3, and there are no others: m = min(10, 3), so 2/3.
        assert revisited_precision_at_k([0, 2], 2, 10) == pytest.approx(2 / 3, abs=1e-15)
        # k below the last place: m = k.
        assert revisited_precision_at_k([0, 2], 2, 2) == 1 / 2

    def test_a_missed_positive_forfeits_the_shortening(self):
        # Same hits, but a third positive was never retrieved: m = 10.
        assert revisited_precision_at_k([0, 2], 3, 10) == 2 / 10
        assert revisited_precision_at_k([], 3, 10) == 0

    @given(judged_rankings(), st.integers(1, 40))
    def test_revisited_against_counting(self, judged, k):
        ranking, positives, junk = judged
        kept = [item for item in ranking if item not in junk]
        last_place = max(place for place, item in enumerate(kept, start=1) if item in positives)
        m = min(last_place, k)
        expected = len(positives.intersection(kept[:m])) / m
        ranks = positive_ranks(ranking, positives, junk)
        assert revisited_precision_at_k(ranks, len(positives), k) == pytest.approx(expected, abs=1e-15)

    def test_wrong_arguments_are_refused(self):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            precision_at_k([0], 0)
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            revisited_precision_at_k([0], 1, 0)
        with pytest.raises(ValueError, match="without positives"):
            revisited_precision_at_k([], 0, 10)


class TestRecallAtK:
    def test_one_positive_in_the_first_k_is_enough(self):
        assert recall_at_k([4, 9], 5) == 1
        assert recall_at_k([4, 9], 4) == 0
        assert recall_at_k([], 10) == 0

    def test_k_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            recall_at_k([0], 0)


class TestEvaluate:
    truths = {  # noqa: RUF012
        "a": Truth(frozenset({"p1", "p2"}), frozenset({"j"})),
        "b": Truth(frozenset({"p3"})),
        "none": Truth(frozenset(), frozenset({"j"})),
    }

    def test_by_hand(self):
        # a: j p1 n p2 -> p n p with 2 positives: (1 + 1 + 1/2 + 2/3) / 4 = 19/24, P@10 = 2/3, P@1 = 1
        # b: n p3: (0/1 + 1/2) / 2 = 1/4, P@10 = 1/2, P@1 = 0
        rankings = {"b": ["n", "p3"], "a": ["j", "p1", "n", "p2"], "none": ["n"]}
        result = evaluate(rankings, self.truths, ks=(1, 10))
        assert result.queries == ("a", "b")
        assert result.average_precision == pytest.approx([100 * 19 / 24, 25])
        assert result.precision_at[10] == pytest.approx([200 / 3, 50])
        assert result.means() == pytest.approx(
            {"mAP": 50 * (19 / 24 + 1 / 4), "mP@1": 50, "mP@10": 50 * (2 / 3 + 1 / 2)}
            | {"Recall@1": 50, "Recall@5": 100, "Recall@10": 100}
        )

    def test_challenge_by_hand(self):
        # a: p1 n p2: (1 + 2/3) / 2 = 5/6, P@10 = 2/10;  b: n p3: 1/2, P@10 = 1/10
        rankings = {"a": ["p1", "n", "p2"], "b": ["n", "p3"]}
        result = evaluate(rankings, self.truths, metric="challenge")
        assert result.average_precision == pytest.approx([500 / 6, 50])
        recalls = {"Recall@1": 50, "Recall@5": 100, "Recall@10": 100}
        assert result.means() == pytest.approx({"mAP": 50 * (5 / 6 + 1 / 2), "mP@10": 15} | recalls)

    def test_recall_by_hand(self):
        # a: the first right one at place 6 without the junk;  b: at place 10;  none has none and is left out.
        rankings = {"a": [*"12345", "j", "p1"], "b": [*"123456789", "p3"], "none": ["n"]}
        result = evaluate(rankings, self.truths)
        assert {k: values.tolist() for k, values in result.recall_at.items()} == {
            1: [0, 0], 5: [0, 0], 10: [100, 100],
        }  # fmt: skip
        rankings["a"].remove("1")
        assert evaluate(rankings, self.truths).means()["Recall@5"] == 50
        rankings["b"].insert(0, "0")
        assert evaluate(rankings, self.truths).means()["Recall@10"] == 50

    def test_the_challenge_looks_at_a_hundred_places(self):
        rankings = {"b": [*map(str, range(100)), "p3"]}
        assert evaluate(rankings, {"b": self.truths["b"]}, metric="challenge").means()["mAP"] == 0

    def test_a_query_without_a_ranking_has_0(self):
        assert evaluate({"a": ["p1", "p2"]}, self.truths).average_precision.tolist() == [100, 0]
        assert set(evaluate({}, self.truths).means().values()) == {0}

    def test_queries_with_fewer_positives_are_left_out(self):
        assert evaluate({"b": ["p3"]}, self.truths, min_positives=2).queries == ("a",)
        assert evaluate({"b": ["p3"]}, self.truths, min_positives=0).queries == ("a", "b")

    def test_arrays_of_numbers(self):
        result = evaluate({0: np.array([7, 5, 6])}, {0: Truth(frozenset({5, 6}), frozenset({7}))})
        assert result.means()["mAP"] == 100

    def test_wrong_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"queries without truth, such as \['z'\]"):
            evaluate({"z": []}, self.truths)
        with pytest.raises(ValueError, match="none of 3 queries has 3 or more positives"):
            evaluate({}, self.truths, min_positives=3)
        with pytest.raises(ValueError, match="unknown metric 'mrr': choose trapezoid or challenge"):
            evaluate({}, self.truths, metric="mrr")
