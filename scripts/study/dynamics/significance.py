"""The p-values behind the verdicts: each is of the opposite of what it would confirm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nci_plugin.dynamics.intervals import LEVEL, Interval

SIGNIFICANT = 0.05
PERMUTATIONS = 9_999

Samples = Sequence[Sequence[float]]


# -------------------------------------------------------------------- by permutation


def kruskal(samples: Samples, seed: int = 0) -> float | None:
    """Of Kruskal and Wallis's H by PERMUTATIONS, for few runs and many ties; None where it does not apply.

    ``inf`` is a value, larger than all others: a run without an onset.
    """
    values = np.concatenate([np.asarray(each, dtype=np.float64) for each in samples]) if samples else np.empty(0)
    if len(samples) < 2 or len(np.unique(values)) < 2:
        return None
    sizes = np.array([len(each) for each in samples])
    starts = np.cumsum(sizes) - sizes

    def statistic(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.add.reduceat(ranks, starts, axis=1) ** 2 / sizes).sum(axis=1)

    return _permuted(statistic, stats.rankdata(values), seed)


def smallest_p(sizes: Sequence[int]) -> float:
    """The exact p-value of Kruskal and Wallis's test where the levels do not overlap, 1 for fewer than two levels.

    Of all ways to deal the ranks out, the orders of the levels without overlap in which H is largest.
    """
    if len(sizes) < 2:
        return 1.0
    largest = [sum((size * (2 * before + size + 1)) ** 2 / size for size, before in order) for order in _orders(sizes)]
    ways = factorial(sum(sizes)) // prod(factorial(size) for size in sizes)
    return sum(value > max(largest) - 1e-6 for value in largest) / ways


def _orders(sizes: Sequence[int]) -> Iterable[list[tuple[int, int]]]:
    """Each order of the levels as (size, number of values in the levels before)."""
    for order in permutations(sizes):
        yield list(zip(order, np.cumsum([0, *order[:-1]]).tolist()))


def censored_trend(levels: Sequence[float], times: Sequence[float], observed: Sequence[bool], seed: int = 0) -> float:
    """That times do not get shorter with the level, against that they do; one side, by PERMUTATIONS of the levels.

    Gehan's (1965) scores of right-censored times: of a run, the number of others that it is known to come before, less
    those it is known to come after. The statistic is their sum weighted by the rank of the level.
    """
    time, known = np.asarray(times, dtype=np.float64), np.asarray(observed, dtype=bool)
    before = known[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~known))
    scores = before.sum(axis=1) - before.sum(axis=0)
    return _permuted(lambda ranks: ranks @ scores, stats.rankdata(levels), seed)


def _permuted(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], values: NDArray[np.float64], seed: int
) -> float:
    """Share of orders of the values (n,) with a statistic no smaller than that of the given one, itself counted."""
    drawn = np.random.default_rng(seed).permuted(np.tile(values, (PERMUTATIONS, 1)), axis=1)
    return float((1 + (statistic(drawn) >= statistic(values[None])[0] - 1e-9).sum()) / (1 + PERMUTATIONS))


# -------------------------------------------------------------------- of means


def signed_rank(values: Sequence[float]) -> float:
    """That values are symmetric about 0 or smaller, against larger (Wilcoxon 1945), by PERMUTATIONS of their signs.

    Zeros are left out; 1 where all are.
    """
    known = np.array([value for value in values if value])
    if not len(known):
        return 1.0
    ranks = stats.rankdata(np.abs(known))
    drawn = np.random.default_rng(0).random((PERMUTATIONS, len(known))) < 0.5
    return float((1 + (drawn @ ranks >= ranks[known > 0].sum() - 1e-9).sum()) / (1 + PERMUTATIONS))


def t_interval(values: Sequence[float]) -> Interval:
    """Student's interval (LEVEL) of a mean, None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - reach, mean + reach


def within(values: Sequence[float], least: float, most: float) -> float:
    """That a mean lies outside limits, against inside: the larger of two one-sided t-tests (Schuirmann 1987)."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    return _beyond(min(mean - least, most - mean), error, len(values) - 1)


def equivalence(samples: Samples, share: float) -> float:
    """That two levels' means differ by a share of the mean of all, or more, against that no two do.

    The largest p-value over all pairs of two one-sided tests by Welch; levels need two values.
    """
    margin = share * abs(float(np.mean(np.concatenate([np.asarray(each) for each in samples]))))
    p = []
    for pair in combinations(samples, 2):
        difference, error, freedom = _contrast(pair, (1, -1))
        p.append(_beyond(margin - abs(difference), error, freedom))
    return max(p)


def contrast(samples: Samples, weights: Sequence[float]) -> tuple[float, Interval]:
    """That a weighted sum of means is 0, both sides, and its interval (Welch, Satterthwaite); two values a sample."""
    value, error, freedom = _contrast(samples, weights)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return 2 * _beyond(abs(value), error, freedom), (value - reach, value + reach)


def _contrast(samples: Samples, weights: Sequence[float]) -> tuple[float, float, float]:
    """Value, standard error and degrees of freedom."""
    value = float(sum(weight * np.mean(each) for weight, each in zip(weights, samples)))
    parts = [weight**2 * float(np.var(each, ddof=1)) / len(each) for weight, each in zip(weights, samples)]
    below = sum(part**2 / (len(each) - 1) for part, each in zip(parts, samples))
    return value, sum(parts) ** 0.5, sum(parts) ** 2 / below if below else 1.0


def _beyond(distance: float, error: float, freedom: float) -> float:
    if not error:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, freedom))


# -------------------------------------------------------------------- of a coefficient of variation


def variation_below(cv: float, n: int, limit: float) -> float:
    """That the CV of normal values is a limit or more, where ``n`` of them gave ``cv``: exact, by the noncentral t."""
    return float(stats.nct.sf(n**0.5 / cv, n - 1, n**0.5 / limit)) if cv else 0.0


def variation_interval(cv: float, n: int) -> Interval:
    """Of the CV of normal values (Vangel 1996); its end is infinite where ``cv`` is too large for a bound."""
    ends = []
    for quantile in ((1 + LEVEL) / 2, (1 - LEVEL) / 2):
        u = float(stats.chi2.ppf(quantile, n - 1))
        square = ((u + 2) / n - 1) * cv**2 + u / (n - 1)
        ends.append(cv / square**0.5 if square > 0 else float("inf"))
    return ends[0], ends[1]


# -------------------------------------------------------------------- of many claims


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: at most a share q of the claims with one up to q is expected to be false (1995)."""
    order = np.argsort(p)
    scaled = np.asarray(p)[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1] if len(p) else scaled
    return adjusted.tolist()
