"""fn*, the feature norm at onset, of groups of runs (arXiv 2604.00230)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nci_plugin.dynamics.conditions import by_group
from nci_plugin.dynamics.intervals import Interval, bootstrap, mean
from nci_plugin.dynamics.onset import CENSORED, DEGENERATE, Onset, count_outcomes
from nci_plugin.dynamics.trajectory import Trajectory


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


def references(runs: Sequence[Trajectory], onsets: Mapping[str, Onset]) -> list[Reference]:
    """fn* of every group (architecture, data); ``onsets`` by name of the run."""
    return [_reference(group, [onsets[run.run] for run in members]) for group, members in by_group(runs).items()]


def _reference(group: tuple[str, ...], onsets: Sequence[Onset]) -> Reference:
    counts = count_outcomes(onsets)
    values = {onset.run: onset.fn for onset in onsets if onset.observed and onset.fn is not None}
    numbers = list(values.values())
    return Reference(
        group=group,
        n=len(values),
        censored=counts[CENSORED],
        degenerate=counts[DEGENERATE],
        mean=mean(numbers),
        sd=float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        cv=variation(numbers),
        cv_interval=bootstrap(numbers, variation),
        values=values,
    )


def variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation, sample standard deviation / mean; None for fewer than two values or a mean of 0."""
    if len(values) < 2 or not np.mean(values):
        return None
    return float(np.std(values, ddof=1) / np.mean(values))
