"""Studies in which there is no effect: a verdict at 5 % confirms one in at most 19 of 200 (chance of more: 0.3 %)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from claims import CANNOT_TELL, CONFIRMED, Finding
from claims.finding import adjusted
from claims.forecast import FN, LOSS, precedence, predictions
from claims.intervention import attractor
from claims.reference import concentration, invariance, non_additivity
from claims.structure import activation, depth, weight_decay, width, width_shift
from claims.training import cross_entropy, early_detection
from scipy import stats
from significance import (
    benjamini_hochberg,
    censored_trend,
    contrast,
    equivalence,
    kruskal,
    signed_rank,
    variation_below,
    variation_interval,
    within,
)

from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.onset import CENSORED, ONSET, Onset, OnsetRule
from nci_plugin.dynamics.predictors import IN_SAMPLE, MEDIAN_ONSET, ONE_CONDITION, Forecast, Skill
from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory

STUDIES, MOST = 200, 19
END = 300
Generator = np.random.Generator


def study(rows: Sequence[Mapping[str, Any]]) -> Analysis:
    """An analysis of runs that are nothing but conditions, onset (None: none), fn* and AUROC at epoch 10."""
    runs, onsets = [], {}
    for place, row in enumerate(rows):
        conditions = {"architecture": "mlp", "data": "digits", "seed": place, **row}
        onset, fn, auroc = (conditions.pop(name, None) for name in ("onset", "fn", "auroc"))
        records = [] if auroc is None else [EpochRecord(10, auroc=auroc)]
        name = f"r{place}"
        runs.append(Trajectory(name, conditions, records))
        onsets[name] = Onset(name, ONSET if onset else CENSORED, int(onset or END), None, fn)
    return Analysis(OnsetRule(), runs, onsets, [], [], [], [], [])


def onset(generator: Generator) -> int | None:
    """Of any run, whatever its conditions; a third has none."""
    epoch = int(generator.integers(10, 450))
    return epoch if epoch < END else None


def by_level(factor: str, levels: Sequence[Any], seeds: int = 3) -> Callable[[Generator], Analysis]:
    return lambda generator: study([
        {factor: level, "onset": onset(generator), "fn": generator.normal(3, 0.3)}
        for level in levels for _ in range(seeds)
    ])  # fmt: skip


def shifted(factor: str, share: float) -> Callable[[Generator], Analysis]:
    """fn* of two levels that differ by a share of their mean, the limit of the claim that they differ less."""
    return lambda generator: study([
        {factor: level, "onset": 100, "fn": generator.normal(3 * (1 + sign * share / 2), 0.1)}
        for level, sign in ((1, -1), (2, 1)) for _ in range(4)
    ])  # fmt: skip


def additive(generator: Generator) -> Analysis:
    square = {("mlp", "a"): 1.0, ("mlp", "b"): 2.0, ("resnet", "a"): 3.0, ("resnet", "b"): 4.0}
    return study([
        {"architecture": architecture, "data": data, "onset": 100, "fn": fn + generator.normal(0, 0.02)}
        for (architecture, data), fn in square.items() for _ in range(3)
    ])  # fmt: skip


def no_better(generator: Generator) -> Analysis:
    """pScore and MSP that differ by what the condition does to them, in either way, and by the seed."""
    rows = []
    for level in range(28):
        shift = generator.normal(0, 5)
        for _ in range(3):
            auroc = {"pscore": {"near": 80 + shift + generator.normal()}, "msp": {"near": 80 + generator.normal()}}
            rows.append({"depth": level, "auroc": auroc})
    return study(rows)


def foretold(generator: Generator) -> Analysis:
    """Predictors that fire about the onset, before or after it, with errors alike, of the condition and of the seed."""
    rows = [{"depth": level, "onset": 150} for level in range(8) for _ in range(3)]
    found = study(rows)
    skills = []
    for name in (FN, LOSS, MEDIAN_ONSET):
        shifts = generator.normal(0, 30, size=8)
        fired = [150 + shifts[place // 3] + generator.normal(0, 5) for place in range(len(rows))]
        made = [Forecast(f"r{place}", 1.0, at, at, 150, True) for place, at in enumerate(fired)]
        numbers = dict.fromkeys(
            [f.name for f in dataclasses.fields(Skill) if f.name not in ("group", "predictor", "left_out", "forecasts")]
        )
        known = {"n": 24, "silent": 0, "censored": 0, "false_alarms": 0, "before": 0.96}
        for left_out in (IN_SAMPLE, ONE_CONDITION):
            skills.append(Skill(("mlp", "digits"), name, left_out, forecasts=made, **{**numbers, **known}))  # type: ignore[arg-type]
    return dataclasses.replace(found, skills=skills)


def part_of_the_way(generator: Generator) -> Finding:
    """fn comes four fifths of the way back to fn* = 2 on average, the limit of what counts as back."""
    controls = study([{"onset": 100, "fn": 2.0, "seed": seed} for seed in range(4)])
    intervened = []
    for seed in range(4):
        for factor in (0.5, 2.0):
            after = 2 * factor
            later = after + generator.normal(0.8, 0.05) * (2 - after)
            records = [
                EpochRecord(1, collapse={"mean_norm_l2": after}, probe={"intervention": {"fn_after": after}}),
                EpochRecord(2, collapse={"mean_norm_l2": later}),
            ]
            conditions = {"architecture": "mlp", "data": "digits", "seed": seed, "factor": factor}
            intervened.append(Trajectory(f"i{seed}x{factor}", conditions, records))
    return attractor(controls, intervened)


NO_EFFECT: dict[str, Callable[[Generator], Finding]] = {
    "depth": lambda generator: depth(by_level("depth", (2, 3, 5, 8))(generator)),
    "weight decay": lambda generator: weight_decay(by_level("weight_decay", (0.0, 1e-5, 1e-4, 1e-3))(generator)),
    "width": lambda generator: width(by_level("width", (64, 128, 256, 512))(generator)),
    "activation": lambda generator: activation(by_level("activation", ("relu", "gelu", "tanh"), seeds=5)(generator)),
    "shift by width": lambda generator: width_shift(shifted("width", 0.13)(generator)),
    "invariance": lambda generator: invariance(shifted("depth", 0.08)(generator)),
    "concentration": lambda generator: concentration(
        study([{"depth": place, "onset": 100, "fn": generator.normal(3, 0.24)} for place in range(8)])
    ),
    "sum": lambda generator: non_additivity(additive(generator)),
    "cross-entropy": lambda generator: cross_entropy(
        study([{"loss": "ce", "onset": 100 if generator.random() < 0.05 else None} for _ in range(60)])
    ),
    "detection": lambda generator: early_detection(no_better(generator))[0],
    "precedence": lambda generator: precedence(foretold(generator)),
    "median onset": lambda generator: predictions(foretold(generator))[0],
    "train loss": lambda generator: predictions(foretold(generator))[1],
    "attractor": part_of_the_way,
}


@pytest.mark.parametrize("claim", NO_EFFECT)
def test_a_claim_without_an_effect_is_rarely_confirmed(claim: str) -> None:
    generator = np.random.default_rng(0)
    found = [NO_EFFECT[claim](generator) for _ in range(STUDIES)]
    assert all(each.p is not None for each in found)
    assert sum(each.verdict == CONFIRMED for each in found) <= MOST


def test_many_claims_together() -> None:
    """Half of what 5 % lets pass goes where twenty claims were tested."""

    def one(p: float | None, verdict: str = CONFIRMED) -> Finding:
        return Finding("claim", "", "", "", verdict, "", p)

    found = adjusted([one(0.001), one(0.04), *(one(0.5, CANNOT_TELL) for _ in range(18)), one(None, CANNOT_TELL)])
    assert [each.verdict for each in found[:2]] == [CONFIRMED, CANNOT_TELL]
    assert found[0].q == pytest.approx(0.02)
    assert found[-1].q is None
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.2])
    assert benjamini_hochberg([]) == []


# -------------------------------------------------------------------- each test, where there is an effect


def test_permutations_give_the_exact_p_values() -> None:
    assert kruskal([[1, 2], [3, 4, 5], [6, 7, 8]]) == pytest.approx(6 / 560, abs=0.003)
    assert kruskal([[1, 2], [np.inf, np.inf]]) == pytest.approx(1 / 3, abs=0.02)
    assert kruskal([[1, 1], [1, 1]]) is None
    assert kruskal([[1, 2]]) is None
    assert signed_rank([1, 2, 3, 4, 5]) == pytest.approx(1 / 32, abs=0.006)
    values = [3.0, -1, 2, 5, 0.5, 4, -2.5]
    assert signed_rank(values) == pytest.approx(stats.wilcoxon(values, alternative="greater").pvalue, abs=0.015)
    assert signed_rank([0.0, 0.0]) == 1


def test_trend_of_censored_times() -> None:
    """Of 12 runs the wider six have onsets, in the order of their width; none of the narrow ones has."""
    levels, times = [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3, [300] * 6 + [200, 190, 195, 100, 110, 105]
    assert censored_trend(levels, times, [False] * 6 + [True] * 6) < 0.001
    assert censored_trend(levels[::-1], times, [False] * 6 + [True] * 6) > 0.99
    assert censored_trend(levels, [300] * 12, [False] * 12) == 1
    # An early censoring says nothing of who was first: only (1, 2) can be compared, and is by chance in half.
    assert censored_trend([1, 2, 3], [200, 100, 50], [True, True, False]) > 0.3


def test_tests_of_means_are_scipys() -> None:
    first, second = [1.0, 1.2, 0.9, 1.1], [1.5, 1.4, 1.8]
    p, bounds = contrast([first, second], (1, -1))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert p == pytest.approx(expected.pvalue)
    assert bounds is not None
    assert bounds[0] < np.mean(first) - np.mean(second) < bounds[1]
    below, above = (
        stats.ttest_1samp(first, 0.8, alternative="greater"),
        stats.ttest_1samp(first, 1.2, alternative="less"),
    )
    assert within(first, 0.8, 1.2) == pytest.approx(max(below.pvalue, above.pvalue))
    assert equivalence([first, first], 0.5) < 0.01
    assert equivalence([first, second], 0.1) > 0.5
    assert within([1.0, 1.0], 0.8, 1.2) == 0


def test_variation_of_normal_values() -> None:
    generator = np.random.default_rng(0)
    rows = 2 * (1 + 0.08 * generator.standard_normal((4000, 8)))
    cv = rows.std(axis=1, ddof=1) / rows.mean(axis=1)
    assert np.mean([variation_below(each, 8, 0.08) < 0.05 for each in cv]) == pytest.approx(0.05, abs=0.012)
    bounds = [variation_interval(each, 8) for each in cv]
    assert np.mean([low <= 0.08 <= high for low, high in bounds]) == pytest.approx(0.95, abs=0.012)
    assert variation_interval(2.0, 4)[1] == np.inf
