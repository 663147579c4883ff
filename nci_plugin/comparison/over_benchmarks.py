"""Whether detectors can be told apart over several benchmarks, by their ranks (Demsar 2006; arXiv 2511.11934)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, t

from nci_plugin.checks import PluginError
from nci_plugin.comparison.multiple import SIGNIFICANT, cliques, holm
from nci_plugin.comparison.records import Comparison

LEAST_BENCHMARKS = 5
"""Fewer cannot tell detectors apart by ranks, whatever their numbers."""

LEAST_DETECTORS = 3


@dataclass(frozen=True)
class Ranking:
    """``mean_ranks`` (D,), 1 the best; Friedman's ``statistic`` and ``p``; Conover-Holm p of ``pairs`` (D, D)."""

    mean_ranks: NDArray[np.float64]
    statistic: float
    p: float
    pairs: NDArray[np.float64]


def friedman(values: NDArray[np.float64], higher_is_better: bool) -> Ranking:
    """Rank detectors by values (benchmarks, D); ties share their mean rank. Needs 5 benchmarks and 3 detectors.

    The post-hoc test is Fisher's least significant difference on the ranks (Conover 1999, section 5.8): t of two mean
    ranks with the residual variance of ranks by benchmarks and detectors. It is read only if Friedman's p is below
    0.05: else every adjusted p value is 1.
    """
    blocks, detectors = values.shape
    ranks = rankdata(-values if higher_is_better else values, axis=1)
    means = ranks.mean(axis=0)
    spread = np.sum((ranks - (detectors + 1) / 2) ** 2)  # 0 if all detectors are equal everywhere
    statistic, p = map(float, friedmanchisquare(*ranks.T)) if spread > 0 else (0.0, 1.0)
    pairs = np.ones((detectors, detectors))
    if p < SIGNIFICANT:
        degrees = (blocks - 1) * (detectors - 1)
        residual = max(0.0, float(np.sum(ranks**2) - blocks * np.sum(means**2))) / degrees
        first, second = np.triu_indices(detectors, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            distances = np.abs(means[first] - means[second]) / np.sqrt(2 * residual / blocks)
        # Equal mean ranks without any residual are 0/0: not told apart.
        adjusted = holm(np.where(np.isnan(distances), 1.0, 2 * t.sf(distances, degrees)))
        pairs[first, second] = pairs[second, first] = adjusted
    return Ranking(means, statistic, p, pairs)


@dataclass(frozen=True)
class OverBenchmarks:
    """Mean ranks of a group's detectors, best first, Friedman's test, Conover-Holm p values of pairs, and ``ties``.

    ``pairs`` are (first, second, p); ``reason`` says why nothing was tested and all else is empty, or is empty.
    """

    group: str
    benchmarks: Sequence[str]
    mean_ranks: Sequence[tuple[str, float]] = ()
    statistic: float | None = None
    p: float | None = None
    pairs: Sequence[tuple[str, str, float]] = ()
    ties: Sequence[Sequence[str]] = ()
    reason: str = ""


def over_benchmarks(comparisons: Sequence[Comparison]) -> list[OverBenchmarks]:
    """One test for each group that all of several benchmarks have, of the detectors that all have.

    Raises PluginError if two comparisons are of one benchmark: its networks are no independent benchmarks.
    """
    benchmarks = [each.benchmark for each in comparisons]
    if len(set(benchmarks)) < len(benchmarks):
        raise PluginError(f"benchmarks: each must be there once, got {', '.join(benchmarks)}; compare one run of each")
    groups = [group for group in comparisons[0].groups if all(group in each.groups for each in comparisons)]
    return [_of_group(comparisons, group) for group in groups]


def _of_group(comparisons: Sequence[Comparison], group: str) -> OverBenchmarks:
    benchmarks = [each.benchmark for each in comparisons]
    by_benchmark = [
        {value.detector: value.value for value in each.values if value.group == group} for each in comparisons
    ]
    names = [name for name in by_benchmark[0] if all(name in values for values in by_benchmark)]
    if len(benchmarks) < LEAST_BENCHMARKS:
        return OverBenchmarks(group, benchmarks, reason=f"no power: {LEAST_BENCHMARKS} benchmarks are needed")
    if len(names) < LEAST_DETECTORS:
        return OverBenchmarks(group, benchmarks, reason=f"{LEAST_DETECTORS} detectors on every benchmark are needed")
    values = np.array([[values[name] for name in names] for values in by_benchmark])
    ranking = friedman(values, comparisons[0].choice.of_metric.higher_is_better)
    order = [int(place) for place in np.argsort(ranking.mean_ranks, kind="stable")]
    first, second = np.triu_indices(len(names), 1)
    return OverBenchmarks(
        group,
        benchmarks,
        mean_ranks=[(names[place], float(ranking.mean_ranks[place])) for place in order],
        statistic=ranking.statistic,
        p=ranking.p,
        pairs=[(names[one], names[two], float(ranking.pairs[one, two])) for one, two in zip(first, second)],
        ties=[[names[place] for place in run] for run in cliques(order, ranking.pairs < SIGNIFICANT)],
    )
