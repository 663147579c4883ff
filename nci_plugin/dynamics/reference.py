"""fn*, the feature norm at onset, of groups of runs, and whether training conditions move it (arXiv 2604.00230)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from nci_plugin.dynamics.conditions import GROUP, Slice, by_group, factors, slices
from nci_plugin.dynamics.intervals import Interval, bootstrap
from nci_plugin.dynamics.onset import Onset, count_outcomes
from nci_plugin.dynamics.trajectory import Condition, Trajectory

SIGNIFICANT = 0.05

TESTS = {
    "anova": stats.f_oneway,
    "alexander_govern": stats.alexandergovern,
    "kruskal": stats.kruskal,
    "levene": stats.levene,
}
"""Of equal means with and without equal variances, of equal distributions, and of equal variances."""

DECIDING = "kruskal"
"""The test that the verdict goes by: it needs neither normal values nor, under its null hypothesis, anything else."""

DIFFERS, NO_DIFFERENCE, TOO_FEW = "differs", "no difference found", "too few runs to tell"


@dataclass(frozen=True)
class Reference:
    """fn* of a group: mean, sample standard deviation, CV (share of the mean, 0..) with its interval over runs.

    ``n`` runs had an onset, ``censored`` none by their end, ``degenerate`` lost their features.
    """

    group: tuple[str, ...]
    n: int
    censored: int
    degenerate: int
    mean: float | None
    sd: float | None
    cv: float | None
    cv_interval: Interval
    values: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Invariance:
    """Whether fn* differs between the levels of one condition, the others held.

    ``n`` and ``means`` by level, of runs that had an onset; ``excluded`` levels have fewer than two of them. ``shift``
    is the largest less the smallest mean of a level, as a share of the mean over all runs. ``p`` by test (TESTS), None
    where it does not apply. ``verdict`` is by DECIDING at ``limit`` (SIGNIFICANT by Bonferroni over the comparisons);
    TOO_FEW where not even the clearest order of these runs would reach it. NO_DIFFERENCE does not show that there is
    none: read it with ``shift`` and n.
    """

    group: tuple[str, ...]
    factor: str
    held: Mapping[str, Condition]
    n: Mapping[str, int]
    means: Mapping[str, float]
    excluded: Sequence[str]
    shift: float | None
    p: Mapping[str, float | None]
    limit: float
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def references(runs: Sequence[Trajectory], onsets: Mapping[str, Onset]) -> list[Reference]:
    """fn* of every group (architecture, data); ``onsets`` by name of the run."""
    return [_reference(group, [onsets[run.run] for run in members]) for group, members in by_group(runs).items()]


def _reference(group: tuple[str, ...], onsets: Sequence[Onset]) -> Reference:
    counts = count_outcomes(onsets)
    values = {onset.run: onset.fn for onset in onsets if onset.observed and onset.fn is not None}
    numbers = list(values.values())
    mean = float(np.mean(numbers)) if numbers else None
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Reference(
        group=group,
        n=len(values),
        censored=counts["censored"],
        degenerate=counts["degenerate"],
        mean=mean,
        sd=sd,
        cv=variation(numbers),
        cv_interval=bootstrap(numbers, variation),
        values=values,
    )


def variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation, sample standard deviation / mean; None for fewer than two values or a mean of 0."""
    if len(values) < 2 or not np.mean(values):
        return None
    return float(np.std(values, ddof=1) / np.mean(values))


def invariances(runs: Sequence[Trajectory], onsets: Mapping[str, Onset]) -> list[Invariance]:
    """Test fn* against every condition that varies while the others are held, group by group.

    The slice with most runs stands for a condition that varies in several. Data and architecture are tested as well,
    across groups, since fn* is said to depend on them.
    """
    found = [
        (group, slices(members, factor)[:1]) for group, members in by_group(runs).items() for factor in factors(members)
    ]
    found += [(("all",) * len(GROUP), slices(runs, factor)[:1]) for factor in GROUP]
    pairs = [(group, each) for group, first in found for each in first]
    return [_invariance(group, each, onsets, SIGNIFICANT / len(pairs)) for group, each in pairs]


def _invariance(group: tuple[str, ...], part: Slice, onsets: Mapping[str, Onset], limit: float) -> Invariance:
    levels: dict[str, list[float]] = {}
    for level, runs in part.by_level.items():
        found = [onsets[run.run] for run in runs]
        levels[str(level)] = [each.fn for each in found if each.observed and each.fn is not None]
    known = {level: values for level, values in levels.items() if len(values) > 1}
    means = {level: float(np.mean(values)) for level, values in known.items()}
    p = {name: _p_value(test, list(known.values())) for name, test in TESTS.items()}
    deciding = p[DECIDING]
    if deciding is None or smallest_p([len(values) for values in known.values()]) > limit:
        verdict = TOO_FEW
    else:
        verdict = DIFFERS if deciding < limit else NO_DIFFERENCE
    overall = float(np.mean([value for values in known.values() for value in values])) if known else 0.0
    return Invariance(
        group=group,
        factor=part.factor,
        held=dict(part.held),
        n={level: len(values) for level, values in known.items()},
        means=means,
        excluded=[level for level in levels if level not in known],
        shift=(max(means.values()) - min(means.values())) / overall if len(means) > 1 and overall else None,
        p=p,
        limit=limit,
        verdict=verdict,
    )


def smallest_p(sizes: Sequence[int]) -> float:
    """The exact p-value of Kruskal and Wallis's test where the levels do not overlap, 1 for fewer than two levels.

    Of all ways to deal the ranks out, those that part the levels as clearly: one for each order of levels of the same
    size (for other sizes at most that many, so this is a lower bound).
    """
    if len(sizes) < 2:
        return 1.0
    ways = math.factorial(sum(sizes))
    for size in sizes:
        ways //= math.factorial(size)
    return math.factorial(len(sizes)) / ways if len(set(sizes)) == 1 else 1 / ways


def _p_value(test: Any, samples: Sequence[Sequence[float]]) -> float | None:
    """None where a test does not apply: fewer than two levels, or values that are all the same."""
    if len(samples) < 2:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a test of constant values is undefined, which None says
        try:
            p = float(test(*samples).pvalue)
        except ValueError:
            return None
    return p if math.isfinite(p) else None
