"""Bootstrap intervals over runs: the checkpoints of a run are not independent, runs are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES, SEED = 1000, 0
LEAST = 5
"""Runs that an interval needs: percentile intervals of fewer are far too narrow."""

Interval = Optional[tuple[float, float]]
T = TypeVar("T")


def bootstrap(runs: Sequence[T], statistic: Callable[[Sequence[T]], float | None]) -> Interval:
    """Percentile interval (LEVEL) of a statistic of some runs, resampled with replacement (Efron & Tibshirani 1993).

    Resamples in which the statistic is undefined (None) are left out; None where more than half of them are, or with
    fewer than LEAST runs.
    """

    def of_drawn(drawn: NDArray[Any]) -> float:
        value = statistic([runs[index] for index in drawn])
        return np.nan if value is None else value

    return _interval(np.arange(len(runs)), of_drawn, vectorized=False)


def bootstrap_mean(values: Iterable[float | None]) -> Interval:
    """`bootstrap` of the mean over the runs that have a value, of one value a run (None: it has none)."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return _interval(numbers, known_mean, vectorized=True)


def percentiles(values: NDArray[Any]) -> Interval:
    """The interval of the values of some resamples, None where more than half of them have none (NaN)."""
    if 2 * np.isfinite(values).sum() < len(values) or not len(values):
        return None
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def known_mean(values: NDArray[Any], axis: int = 0) -> Any:
    """Means along an axis of what is known (not NaN); NaN where nothing is."""
    counts = np.isfinite(values).sum(axis=axis)
    return np.divide(np.nansum(values, axis=axis), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known, None where nothing is."""
    known = _known(values)
    return float(np.mean(known)) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is known, None where nothing is."""
    known = _known(values)
    return float(np.median(known)) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and not np.isnan(value)]


def _interval(values: NDArray[Any], statistic: Callable[..., Any], vectorized: bool) -> Interval:
    if len(values) < LEAST:
        return None
    with warnings.catch_warnings():  # of a distribution with undefined values, which `percentiles` counts
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (values,), statistic, vectorized=vectorized, n_resamples=RESAMPLES, method="percentile",
            random_state=np.random.default_rng(SEED),
        )  # fmt: skip
    return percentiles(drawn.bootstrap_distribution)
