"""The four structural regularities that arXiv 2604.00230 claims, re-tested: depth, activation, weight decay, width.

Each is about a slice of runs in which that condition alone varies, and is judged on resamples: the runs of every level
are drawn anew, with replacement, and the share of resamples in which the claimed pattern holds is its support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from slices import Slice, slices

from nci_plugin.dynamics.intervals import RESAMPLES
from nci_plugin.dynamics.onset import DEGENERATE, Onset
from nci_plugin.dynamics.trajectory import Condition, Trajectory

NEVER = float("inf")
"""The onset of a run that has none: later than any other."""

LEAST_LEVELS = 3
"""Fewer levels have no shape."""

Pattern = Callable[[Sequence[float]], bool]
"""Whether a pattern holds of the levels' median onsets, in the order of the levels."""


@dataclass(frozen=True)
class Regularity:
    """``onsets`` by level (`NEVER`: none) of a slice, and the ``support`` of a pattern of theirs, 0..1.

    ``holds``: of the runs as they are. ``degenerate`` runs, by level, lost their features.
    """

    factor: str
    held: Mapping[str, Condition]
    onsets: Mapping[Condition, Sequence[float]]
    degenerate: Mapping[Condition, int]
    holds: bool
    support: float

    @property
    def medians(self) -> list[float]:
        return [upper_median(values) for values in self.onsets.values()]

    @property
    def n(self) -> int:
        return sum(map(len, self.onsets.values()))


def regularity(
    runs: Sequence[Trajectory],
    onsets: Mapping[str, Onset],
    factor: str,
    pattern: Pattern,
    least_levels: int = LEAST_LEVELS,
    seed: int = 0,
) -> Regularity | None:
    """The pattern in the slice of the factor that has most runs with an onset; None without ``least_levels`` levels."""
    part = best_slice(runs, onsets, factor, least_levels)
    if part is None:
        return None
    found = {level: [speed(onsets[run.run]) for run in some] for level, some in part.by_level.items()}
    generator = np.random.default_rng(seed)
    drawn = [
        np.sort(generator.choice(values, size=(RESAMPLES, len(values))), axis=1)[:, len(values) // 2]
        for values in found.values()
    ]
    return Regularity(
        factor=factor,
        held=dict(part.held),
        onsets=found,
        degenerate={
            level: sum(onsets[run.run].outcome == DEGENERATE for run in some) for level, some in part.by_level.items()
        },
        holds=pattern([upper_median(values) for values in found.values()]),
        support=float(np.mean([pattern(medians) for medians in np.column_stack(drawn).tolist()])),
    )


def best_slice(runs: Sequence[Trajectory], onsets: Mapping[str, Onset], factor: str, least_levels: int) -> Slice | None:
    """The slice with most observed onsets, None where none has so many levels and an onset."""
    found = [part for part in slices(runs, factor) if len(part.by_level) >= least_levels]
    counted = [(sum(onsets[run.run].observed for run in part.runs), part) for part in found]
    return max(counted, key=lambda each: each[0])[1] if any(count for count, _ in counted) else None


def speed(onset: Onset) -> float:
    """The epoch of the onset, NEVER without one."""
    return float(onset.epoch) if onset.observed else NEVER


def non_monotonic(medians: Sequence[float]) -> bool:
    """Some level is later than one before, and some is earlier: depth (arXiv 2604.00230)."""
    steps = _steps(medians)
    return any(step > 0 for step in steps) and any(step < 0 for step in steps)


def never_later(medians: Sequence[float]) -> bool:
    """No level is later than the one before, and the last is earlier than the first: width (arXiv 2604.00230)."""
    return all(step <= 0 for step in _steps(medians)) and medians[-1] < medians[0]


def three_regimes(medians: Sequence[float]) -> bool:
    """The smallest is slower than some level between, and at the largest collapse never sets in: weight decay."""
    inner = min(medians[1:-1], default=NEVER)
    return inner < medians[0] and inner < NEVER and medians[-1] == NEVER


def _steps(medians: Sequence[float]) -> list[float]:
    """+1, 0 or -1 from each level to the next; NEVER to NEVER is 0."""
    return [float(after > before) - float(after < before) for before, after in zip(medians, medians[1:])]


def upper_median(values: Sequence[float]) -> float:
    """The upper median, which is one of the values: NEVER where half of the runs have no onset."""
    return sorted(values)[len(values) // 2]
