"""Metrics against OpenOOD's conventions, written again from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin.metrics import accuracy, auroc, ood_metrics

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)
EXACT = 1e-9  # percent


def naive_auroc(id_scores, ood_scores):
    """Mann-Whitney: the share of pairs in which the ID sample scores higher, ties counted half."""
    higher = sum(float(i > o) + 0.5 * float(i == o) for i in id_scores for o in ood_scores)
    return higher / (len(id_scores) * len(ood_scores))


def naive_fpr(id_scores, ood_scores, recall=0.95):
    """Share of ID called OOD at the first vertex of the ROC curve (OOD positive) that finds ``recall`` of the OOD.

    A vertex is a threshold at which the slope of the curve changes: scikit-learn drops those on a straight line, so
    the first one left can lie behind the first threshold of that recall.
    """
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))  # lowest first: most OOD-like first
    points = [(int((id_scores <= t).sum()), int((ood_scores <= t).sum())) for t in thresholds]
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in zip(points, points[1:])]
    last = len(points) - 1
    kept = [point for i, point in enumerate(points) if i in (0, last) or steps[i - 1] != steps[i]]
    for false_positives, true_positives in kept:
        if true_positives / len(ood_scores) >= recall:
            return false_positives / len(id_scores)
    raise AssertionError("the last point has recall 1")


def naive_aupr(positives, negatives):
    """Trapezoid area under precision over recall, larger scores positive, from (0, 1) on."""
    points = [(0.0, 1.0)]
    for threshold in np.unique(np.concatenate([positives, negatives]))[::-1]:
        true, false = int((positives >= threshold).sum()), int((negatives >= threshold).sum())
        points.append((true / len(positives), true / (true + false)))
    return sum((r1 - r0) * (p0 + p1) / 2 for (r0, p0), (r1, p1) in zip(points, points[1:]))


def assert_equals_definitions(id_scores, ood_scores):
    got = ood_metrics(id_scores, ood_scores)
    assert got.auroc == pytest.approx(100 * naive_auroc(id_scores, ood_scores), abs=EXACT)
    assert got.fpr95 == pytest.approx(100 * naive_fpr(id_scores, ood_scores), abs=EXACT)
    assert got.aupr_in == pytest.approx(100 * naive_aupr(id_scores, ood_scores), abs=EXACT)
    assert got.aupr_out == pytest.approx(100 * naive_aupr(-ood_scores, -id_scores), abs=EXACT)
    assert 100 * auroc(id_scores, ood_scores) == pytest.approx(got.auroc, abs=EXACT)


def scores(values, max_size=30):
    return st.lists(values, min_size=1, max_size=max_size)


FEW_VALUES = st.integers(-3, 3).map(float)
ANY_VALUES = st.floats(-1e6, 1e6, width=32)
DTYPES = st.sampled_from([np.float32, np.float64])


@PROPERTY
@given(scores(FEW_VALUES), scores(FEW_VALUES), DTYPES)
def test_equals_the_definitions_with_many_ties(id_scores, ood_scores, dtype):
    assert_equals_definitions(np.array(id_scores, dtype), np.array(ood_scores, dtype))


@PROPERTY
@given(scores(ANY_VALUES), scores(ANY_VALUES), DTYPES)
def test_equals_the_definitions_for_any_scores(id_scores, ood_scores, dtype):
    assert_equals_definitions(np.array(id_scores, dtype), np.array(ood_scores, dtype))


@PROPERTY
@given(scores(FEW_VALUES, 100), scores(FEW_VALUES, 100))
def test_swapping_and_negating_swaps_the_positive_class(id_scores, ood_scores):
    id_scores, ood_scores = np.array(id_scores), np.array(ood_scores)
    one, other = ood_metrics(id_scores, ood_scores), ood_metrics(-ood_scores, -id_scores)
    assert one.auroc == pytest.approx(other.auroc, abs=EXACT)
    assert one.aupr_in == pytest.approx(other.aupr_out, abs=EXACT)
    assert one.aupr_out == pytest.approx(other.aupr_in, abs=EXACT)


@PROPERTY
@given(scores(FEW_VALUES), scores(FEW_VALUES), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_counts(id_scores, ood_scores, random):
    expected = ood_metrics(np.array(id_scores), np.array(ood_scores))
    random.shuffle(id_scores)
    random.shuffle(ood_scores)
    assert ood_metrics(np.exp(id_scores), np.exp(ood_scores)) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_samples_of_continuous_scores(dtype):
    generator = np.random.default_rng(0)
    id_scores, ood_scores = generator.normal(1, 1, 400).astype(dtype), generator.normal(0, 2, 300).astype(dtype)
    assert_equals_definitions(id_scores, ood_scores)


def test_perfect_separation():
    got = ood_metrics(np.array([2.0, 3.0, 4.0]), np.array([0.0, 1.0]))
    assert (got.fpr95, got.auroc, got.aupr_in, got.aupr_out) == (0.0, 100.0, 100.0, 100.0)


def test_perfect_inversion():
    got = ood_metrics(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    assert (got.fpr95, got.auroc) == (100.0, 0.0)


def test_constant_scores():
    """One step from (0, 0) to (1, 1): half the area, and precision falls from 1 to the share of positives."""
    got = ood_metrics(np.zeros(30), np.zeros(10))
    assert got.auroc == pytest.approx(50)
    assert got.fpr95 == pytest.approx(100)
    assert got.aupr_in == pytest.approx(100 * (1 + 30 / 40) / 2)
    assert got.aupr_out == pytest.approx(100 * (1 + 10 / 40) / 2)


def test_a_group_of_equal_scores_moves_the_curve_in_one_step():
    """A tie block through recall 0.95 costs all the ID samples in it; ordering within it must not matter."""
    id_scores = np.array([0.5] * 20 + [1.0] * 80)
    ood_scores = np.array([0.0] * 94 + [0.5] * 6)
    assert ood_metrics(id_scores, ood_scores).fpr95 == pytest.approx(20)


def test_recall_of_exactly_95_percent_is_enough():
    """19 of 20 OOD samples below every ID sample, the last above all of them."""
    id_scores = np.array([10.0, 11.0, 12.0])
    ood_scores = np.append(np.arange(19.0), 20.0) - 15
    assert ood_metrics(np.arange(3.0) + 10, np.append(np.linspace(0, 1, 19), 20.0)).fpr95 == 0
    assert_equals_definitions(id_scores, ood_scores)


def test_one_sample_of_each():
    assert ood_metrics(np.array([1.0]), np.array([0.0])).auroc == 100
    assert ood_metrics(np.array([1.0]), np.array([0.0])).fpr95 == 0
    assert ood_metrics(np.array([0.0]), np.array([1.0])).auroc == 0


def test_auprs_are_trapezoids_not_average_precision():
    """Average precision of this ranking would be 5/6."""
    got = ood_metrics(np.array([3.0, 1.0]), np.array([2.0]))
    assert got.aupr_in == pytest.approx(100 * (0.5 * 1 + 0.5 * (0.5 + 2 / 3) / 2))


def test_neighbouring_float32_scores_are_not_ties():
    below = np.float32(1)
    above = np.nextafter(below, np.float32(2))
    assert ood_metrics(np.array([above]), np.array([below])).auroc == 100


def test_float32_id_and_float64_ood_scores():
    got = ood_metrics(np.array([0.5, 2.0], np.float32), np.array([0.25, 1.0], np.float64))
    assert got == ood_metrics(np.array([0.5, 2.0]), np.array([0.25, 1.0]))


@pytest.mark.filterwarnings("ignore:overflow")  # of a difference of neighbours inside scikit-learn
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_at_the_limits_of_their_type(dtype):
    largest = np.finfo(dtype).max
    got = ood_metrics(np.array([largest, 1], dtype), np.array([-largest, 0], dtype))
    assert (got.auroc, got.fpr95) == (100, 0)


def test_inputs_are_left_alone():
    id_scores, ood_scores = np.array([3.0, 1.0, 2.0]), np.array([0.0, 1.0])
    ood_metrics(id_scores, ood_scores)
    assert id_scores.tolist() == [3, 1, 2]
    assert ood_scores.tolist() == [0, 1]


def test_accuracy_in_percent():
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3])) == 75
