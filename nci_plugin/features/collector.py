"""What is kept of a split as it passes: features, outputs of stages, statistics of either."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

from torch import Tensor

from nci_plugin.features.bank import FitsOn
from nci_plugin.features.forward import Passed
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows

Of = Union[FitsOn, str]
"""What statistics are of: STATISTICS, the features; UNIT_STATISTICS, their `unit_rows`; the outputs of a stage."""


def training_statistics(
    fits_on: Collection[FitsOn], num_features: int, stages: Mapping[str, int] | None = None
) -> dict[Of, int]:
    """What statistics of the training split detectors need that fit on these, with the width of their rows.

    Those of the features always, unless nothing fits; ``stages`` are given with the width of their outputs.
    """
    found: dict[Of, int] = {FitsOn.STATISTICS: num_features} if fits_on else {}
    if FitsOn.UNIT_STATISTICS in fits_on:
        found[FitsOn.UNIT_STATISTICS] = num_features
    found.update(stages or {})
    return found


@dataclass
class Sum:
    """ClassStatistics of all rows (``is_whole``), or of those of the first ``done`` shards of a process's part."""

    statistics: ClassStatistics
    done: int = 0
    is_whole: bool = False

    def lacks(self, index: int) -> bool:
        return not self.is_whole and index >= self.done


class Collector:
    """Keeps what is needed of the rows of one split, in memory, as they come with `add`.

    ``statistics`` are those that are needed (see `training_statistics`), ``features`` says whether these are, and
    ``stages`` are those whose outputs are; statistics and stages are given with the width of their rows.
    """

    def __init__(
        self,
        num_classes: int,
        statistics: Mapping[Of, int],
        features: bool = True,
        stages: Mapping[str, int] | None = None,
    ) -> None:
        self.keeps_features, self.stages = features, stages or {}
        self._sums = {of: Sum(ClassStatistics(num_classes, width)) for of, width in statistics.items()}
        self._shards: dict[int, Chunk] = {}
        self._outputs: dict[int, Mapping[str, Tensor]] = {}
        self._added = 0

    def add(self, new: Passed) -> None:
        """Take the next rows."""
        self._keep(self._added, new)
        self._update(new)

    def forget_features(self) -> None:
        """Keep no features, neither those that are there nor those that come."""
        self.keeps_features = False
        self._shards.clear()

    @property
    def statistics(self) -> dict[Of, ClassStatistics]:
        return {of: each.statistics for of, each in self._sums.items()}

    @property
    def split(self) -> FeatureSplit | None:
        """The rows, in order; None unless their features are kept."""
        return FeatureSplit([self._shards[number] for number in sorted(self._shards)]) if self.keeps_features else None

    @property
    def outputs(self) -> list[Mapping[str, Tensor]]:
        """The outputs of the stages, by shard."""
        return [self._outputs[number] for number in sorted(self._outputs)]

    def _keep(self, number: int, new: Passed) -> None:
        if self.stages:
            self._outputs[number] = {stage: new.stages[stage] for stage in self.stages}
        if self.keeps_features:
            self._shards[number] = new.chunk

    def _update(self, rows: Passed | None) -> dict[Of, Sum]:
        """Add the next rows to the statistics that lack them, and say which these are; None are rows none lacks."""
        index, self._added = self._added, self._added + 1
        if rows is None:
            return {}
        lacking = {of: each for of, each in self._sums.items() if each.lacks(index)}
        for of, each in lacking.items():
            values = rows.stages[of] if isinstance(of, str) else rows.chunk.features
            each.statistics.update(unit_rows(values) if of is FitsOn.UNIT_STATISTICS else values, rows.chunk.labels)
            each.done += 1
        return lacking
