"""Thresholds and p-values: what they guarantee, in simulations whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from nci_plugin.checks import PluginError
from nci_plugin.deploy.calibration import (
    POOLED,
    Calibration,
    clopper_pearson,
    least_samples,
    rank_of,
    rejections,
    threshold,
)

DRAWS = 2000
COVERAGE = (0.935, 0.965)


def covered(hits: list[bool]) -> float:
    assert len(hits) == DRAWS
    return float(np.mean(hits))


@pytest.mark.parametrize(("n", "tpr"), [(100, 0.9), (400, 0.95), (99, 0.9)])
def test_interval_of_the_realised_tpr_covers_it(n: int, tpr: float) -> None:
    generator = np.random.default_rng(0)
    hits, realised = [], []
    for _ in range(DRAWS):
        found = threshold(np.sort(generator.uniform(size=n)), tpr)
        true = 1 - found.value  # of uniform scores, P(s >= t)
        realised.append(true)
        hits.append(found.low <= true <= found.high)
    assert COVERAGE[0] < covered(hits) < COVERAGE[1]
    # At least tpr in the mean, and no more than one sample's share above it.
    rank = rank_of(n, tpr)
    error = 3 * beta(n + 1 - rank, rank).std() / np.sqrt(DRAWS)
    assert tpr - error <= np.mean(realised) <= tpr + 1 / (n + 1) + error


def test_p_values_are_valid_in_finite_samples() -> None:
    generator = np.random.default_rng(1)
    n, tpr = 59, 0.95
    p_values = []
    for _ in range(DRAWS):
        scores = generator.normal(size=n + 1)
        calibration = Calibration.of(scores[:n], np.zeros(n, dtype=int))
        p_values.append(float(calibration.p_values(scores[n:])[0]))
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * np.sqrt(level * (1 - level) / DRAWS)
    assert np.mean(np.array(p_values) <= 1 - tpr) == pytest.approx(rank_of(n, tpr) / (n + 1), abs=0.015)


@pytest.mark.parametrize("rank_share", [0.1, 0.5, 0.95])
def test_clopper_pearson_covers(rank_share: float) -> None:
    generator = np.random.default_rng(2)
    hits = []
    for successes in generator.binomial(400, rank_share, size=DRAWS):
        low, high = clopper_pearson(int(successes), 400)
        hits.append(low <= rank_share <= high)
    assert covered(hits) >= COVERAGE[0]  # it is conservative by construction
    assert covered(hits) < 0.98
    assert clopper_pearson(0, 10)[0] == 0
    assert clopper_pearson(10, 10)[1] == 1


def test_so_many_rejections_are_expected() -> None:
    generator = np.random.default_rng(3)
    n, m, hits = 199, 500, []
    for _ in range(DRAWS):
        found = threshold(np.sort(generator.normal(size=n)))
        rejected = int((generator.normal(size=m) < found.value).sum())
        low, high = rejections(found, m)
        hits.append(low <= rejected <= high)
    assert COVERAGE[0] < covered(hits) < COVERAGE[1]


def test_verdict_and_p_value_agree_also_where_floating_point_does_not() -> None:
    generator = np.random.default_rng(4)
    for n, tpr in ((9, 0.9), (19, 0.95), (99, 0.9), (100, 0.7), (999, 0.999)):
        calibration = Calibration.of(generator.integers(0, 20, n).astype(np.float32), np.zeros(n, dtype=int))
        scores = np.arange(-1, 21).astype(np.float32)
        by_p_value = calibration.p_values(scores) <= round(1 - tpr, 12) + 1e-12
        assert (calibration.is_ood(scores, tpr=tpr) == by_p_value).all(), (n, tpr)


def test_ties_never_reject_more_than_the_level() -> None:
    calibration = Calibration.of(np.ones(99), np.zeros(99, dtype=int))
    assert not calibration.is_ood(np.ones(1000)).any()
    assert calibration.is_ood(np.zeros(3)).all()


def test_too_few_samples_are_refused_with_the_number_that_is_needed() -> None:
    assert least_samples(0.95) == 19
    assert least_samples(0.999) == 999
    assert threshold(np.arange(19.0)).rank == 1
    with pytest.raises(PluginError, match="needs at least 19 calibration samples, got 18"):
        threshold(np.arange(18.0))
    for tpr in (0, 1, 1.5, float("nan")):
        with pytest.raises(PluginError, match="tpr"):
            threshold(np.arange(100.0), tpr)


@pytest.mark.parametrize("tpr", [1e-13, 1e-300, 1 - 1e-13])
def test_shares_that_are_none_to_twelve_places_are_refused(tpr: float) -> None:
    calibration = Calibration.of(np.arange(100.0), np.arange(100) % 3)
    asked = [threshold, Calibration.thresholds, Calibration.is_ood]
    for ask, arguments in zip(asked, ([calibration.scores], [calibration], [calibration, calibration.scores])):
        with pytest.raises(PluginError, match="must differ from 0 and 1 by at least 1e-12"):
            ask(*arguments, tpr=tpr)
    with pytest.raises(PluginError, match="must differ"):
        Calibration(calibration.scores, calibration.classes, True).p_values(
            calibration.scores, calibration.classes, tpr
        )


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("tpr", [1e-7, 1e-9, 2e-12, 0.5])
def test_the_smallest_shares_reject_what_is_below_the_largest_score(tpr: float, by_class: bool) -> None:
    scores, classes = np.repeat(np.arange(60.0), 3), np.tile(np.arange(3), 60)
    calibration = Calibration.of(scores, classes, by_class)
    asked, of = np.arange(-1.0, 62.0), np.zeros(63, dtype=int)
    found = calibration.is_ood(asked, of, tpr)
    assert np.array_equal(found, calibration.p_values(asked, of, tpr) <= 1 - tpr)
    if tpr < 0.5:
        assert np.array_equal(found, asked < 59)
    assert all(0 <= each.low <= each.high <= 1 for each in calibration.thresholds(tpr).values())


@pytest.mark.parametrize("by_class", [False, True])
def test_nan_is_below_every_score(by_class: bool) -> None:
    calibration = Calibration.of(np.arange(99.0), np.arange(99) % 2, by_class)
    scores, classes = np.array([np.nan, 98.0, -np.inf, np.inf]), np.array([0, 0, 1, 1])
    assert calibration.is_ood(scores, classes, 0.9).tolist() == [True, False, True, False]
    least = [1 / 51, 1 / 50] if by_class else [1 / 100, 1 / 100]
    assert calibration.p_values(scores, classes, 0.9).tolist() == [least[0], 1, least[1], 1]


def test_rank_counts_whole_numbers() -> None:
    assert rank_of(99, 0.9) == 10  # 100 * (1 - 0.9) is 9.999999999999998
    assert rank_of(98, 0.9) == 9


def test_by_class_holds_within_every_class_with_enough_and_over_the_pool() -> None:
    """Class 0 scores lower than class 1; 2 and 3 have too few samples for a threshold of their own."""
    generator = np.random.default_rng(5)
    shares, shift = np.array([0.45, 0.45, 0.07, 0.03]), np.array([0.0, 10.0, 20.0, 20.0])
    rejected, seen, pooled_once = np.zeros(4), np.zeros(4), 0
    for _ in range(300):
        classes = generator.choice(4, size=300, p=shares)
        scores = shift[classes] + generator.normal(size=300)
        calibration = Calibration.of(scores[:200], classes[:200], by_class=True)
        groups = calibration.groups(0.9)
        pooled_once += POOLED in groups
        assert sum(map(len, groups.values())) == 200
        assert all(len(each) >= least_samples(0.9) for each in groups.values())
        is_ood = calibration.is_ood(scores[200:], classes[200:], 0.9)
        p_values = calibration.p_values(scores[200:], classes[200:], 0.9)
        assert (is_ood == (p_values <= 0.1 + 1e-12)).all()
        np.add.at(rejected, classes[200:], is_ood)
        np.add.at(seen, classes[200:], 1)
    assert pooled_once == 300
    for label in (0, 1):
        assert rejected[label] / seen[label] < 0.1 + 3 * np.sqrt(0.09 / seen[label])
        assert rejected[label] / seen[label] > 0.07
    assert (rejected[2] + rejected[3]) / (seen[2] + seen[3]) < 0.12
    one_threshold = Calibration.of(scores[:200], classes[:200])
    assert (one_threshold.is_ood(np.full(100, 0.0), tpr=0.9)).mean() != calibration.is_ood(
        np.full(100, 10.0 - 3), np.ones(100, dtype=int), 0.9
    ).mean()


def test_a_class_that_never_came_is_judged_in_the_pool() -> None:
    calibration = Calibration.of(np.arange(60.0), np.arange(60) % 2, by_class=True)
    assert set(calibration.groups(0.95)) == {1, POOLED}  # one class fills the pool, which would be empty
    assert calibration.p_values(np.array([5.0]), np.array([7])) == calibration.p_values(np.array([5.0]), np.array([0]))
    with pytest.raises(PluginError, match="needs the predicted class"):
        calibration.p_values(np.array([5.0]))


def test_scores_that_are_no_numbers_calibrate_nothing() -> None:
    for scores in (np.empty(0), np.array([1.0, np.nan])):
        with pytest.raises(PluginError, match="finite scores"):
            Calibration.of(scores, np.zeros(len(scores), dtype=int))
