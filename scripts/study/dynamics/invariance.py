"""Whether training conditions move fn*, the feature norm at onset (arXiv 2604.00230)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from significance import SIGNIFICANT, kruskal, smallest_p
from slices import Slice, factors, slices

from nci_plugin.dynamics.conditions import GROUP, by_group
from nci_plugin.dynamics.onset import Onset
from nci_plugin.dynamics.trajectory import Condition, Trajectory

TESTS = {
    "anova": stats.f_oneway,
    "alexander_govern": stats.alexandergovern,
    "levene": stats.levene,
}
"""Of equal means with and without equal variances, and of equal variances; beside DECIDING."""

DECIDING = "kruskal"
"""The test that the verdict goes by, of equal distributions, by permutation: it needs no normal values."""

DIFFERS, NO_DIFFERENCE, TOO_FEW = "differs", "no difference found", "no power"


@dataclass(frozen=True)
class Invariance:
    """Whether fn* differs between the levels of one condition, the others held.

    ``values`` and their ``means`` by level, of runs that had an onset; ``excluded`` levels have fewer than two of them.
    ``shift`` is the largest less the smallest mean of a level, as a share of the mean over all runs. ``p`` by test
    (TESTS and DECIDING), None where it does not apply. ``verdict`` is by DECIDING at ``limit`` (SIGNIFICANT by
    Bonferroni over the comparisons); TOO_FEW where not even levels without overlap would reach it. NO_DIFFERENCE does
    not show that there is none: read it with ``shift`` and n.
    """

    group: tuple[str, ...]
    factor: str
    held: Mapping[str, Condition]
    values: Mapping[str, Sequence[float]]
    means: Mapping[str, float]
    excluded: Sequence[str]
    shift: float | None
    p: Mapping[str, float | None]
    limit: float
    verdict: str

    @property
    def n(self) -> dict[str, int]:
        return {level: len(values) for level, values in self.values.items()}


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
    samples = list(known.values())
    p = {**{name: _p_value(test, samples) for name, test in TESTS.items()}, DECIDING: kruskal(samples)}
    deciding = p[DECIDING]
    if deciding is None or smallest_p([len(values) for values in samples]) > limit:
        verdict = TOO_FEW
    else:
        verdict = DIFFERS if deciding < limit else NO_DIFFERENCE
    overall = float(np.mean([value for values in known.values() for value in values])) if known else 0.0
    return Invariance(
        group=group,
        factor=part.factor,
        held=dict(part.held),
        values=known,
        means=means,
        excluded=[level for level in levels if level not in known],
        shift=(max(means.values()) - min(means.values())) / overall if len(means) > 1 and overall else None,
        p=p,
        limit=limit,
        verdict=verdict,
    )


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
