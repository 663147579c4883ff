"""Bootstrap intervals over runs: the checkpoints of a run are not independent, runs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional, TypeVar

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
LEAST = 5
"""Runs that an interval needs: percentile intervals of fewer are far too narrow."""

Interval = Optional[tuple[float, float]]
T = TypeVar("T")


def bootstrap(
    runs: Sequence[T], statistic: Callable[[Sequence[T]], float | None], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile interval (LEVEL) of a statistic of some runs, resampled with replacement (Efron & Tibshirani 1993).

    Resamples in which the statistic is undefined (None) are left out; None where more than half of them are, or with
    fewer than LEAST runs.
    """
    if len(runs) < LEAST:
        return None
    generator = np.random.default_rng(seed)
    values = [
        statistic([runs[index] for index in generator.integers(len(runs), size=len(runs))]) for _ in range(resamples)
    ]
    return percentiles([value for value in values if value is not None], resamples)


def bootstrap_mean(values: Sequence[float | None], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """`bootstrap` of the mean over the runs that have a value, of one value a run (None: it has none)."""
    if len(values) < LEAST:
        return None
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    drawn = numbers[np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))]
    known = np.isfinite(drawn).sum(axis=1)
    return percentiles((np.nansum(drawn, axis=1)[known > 0] / known[known > 0]).tolist(), resamples)


def percentiles(values: Sequence[float], resamples: int) -> Interval:
    """The interval of the values of some resamples, None where more than half of them have none."""
    if 2 * len(values) < resamples:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
