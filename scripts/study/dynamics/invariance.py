"""Whether training conditions move fn*, the feature norm at onset (arXiv 2604.00230)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from slices import Slice, factors, slices

from nci_plugin.dynamics.conditions import GROUP, by_group
from nci_plugin.dynamics.onset import Onset
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
