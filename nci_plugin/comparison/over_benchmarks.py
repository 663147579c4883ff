"""Whether detectors can be told apart over several benchmarks, by their ranks on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nci_plugin.checks import PluginError
from nci_plugin.comparison.friedman import LEAST_BENCHMARKS, SIGNIFICANT, cliques, friedman
from nci_plugin.comparison.records import Comparison

LEAST_DETECTORS = 3


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

    def record(self) -> dict[str, Any]:
        return asdict(self)


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
