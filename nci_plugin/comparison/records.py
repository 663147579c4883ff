"""What is compared and how, and what came of it, as records that tables, figures and files are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nci_plugin.checks import PluginError
from nci_plugin.comparison.bootstrap import LEAST_REPLICATES
from nci_plugin.comparison.multiple import SIGNIFICANT
from nci_plugin.metrics.columns import METRIC_COLUMNS, OOD_SHARE, Metric


def check_ood_share(share: float) -> None:
    """Raise PluginError unless an OOD share lies between 0 and 1."""
    if not 0 < share < 1:
        raise PluginError(f"--ood-share: must lie between 0 and 1, got {share}; 0.5 is half of all inputs")


@dataclass(frozen=True)
class Choice:
    """What is compared and how: a metric of `METRIC_COLUMNS`, ``ood`` or ``fsood``, every pair or all ``against`` one.

    ``these_networks``: intervals are about the networks at hand, over images alone, whatever other networks would give.
    """

    metric: str = "auroc"
    setting: str = "ood"
    against: str | None = None
    replicates: int = LEAST_REPLICATES
    seed: int = 0
    ood_share: float = OOD_SHARE
    these_networks: bool = False

    @property
    def of_metric(self) -> Metric:
        return METRIC_COLUMNS[self.metric]

    @property
    def uses_delong(self) -> bool:
        return self.metric in ("auroc", "csid_auroc")

    def intervals(self, networks: Sequence[str]) -> str:
        """How intervals are made, in one sentence."""
        over = f" and {len(networks)} networks"
        if len(networks) == 1 or self.these_networks:
            over = ", this network alone" if len(networks) == 1 else ", these networks alone"
        how = "DeLong" if self.uses_delong else f"{self.replicates} bootstrap replicates"
        return f"95 % intervals over images{over}; {how}"


@dataclass(frozen=True)
class Value:
    """A detector's metric in percent, the mean over data sets and networks, with its 95 % interval."""

    detector: str
    group: str
    value: float
    low: float
    high: float
    by_network: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """``first`` minus ``second`` in points, with its 95 % interval; p values are NaN where resampling changes nothing.

    ``adjusted`` is over all differences of one comparison.
    """

    first: str
    second: str
    group: str
    points: float
    low: float
    high: float
    p: float
    adjusted: float


@dataclass(frozen=True)
class Comparison:
    """Values, differences, and for each group its ``ties``: groups of detectors that cannot be told apart, best first.

    ``samples`` are the sizes of the splits; ``ties`` is empty where all were compared against one detector.
    """

    benchmark: str
    networks: tuple[str, ...]
    choice: Choice
    samples: Mapping[str, int]
    values: Sequence[Value]
    differences: Sequence[Difference]
    ties: Mapping[str, Sequence[Sequence[str]]]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(value.group for value in self.values))

    def ranked(self, group: str) -> list[Value]:
        """Values of a group, best first."""
        sign = -1 if self.choice.of_metric.higher_is_better else 1
        return sorted((value for value in self.values if value.group == group), key=lambda each: sign * each.value)

    def ranks(self, group: str) -> dict[str, str]:
        """``3``, or ``2-4`` where detectors tie: 1 + how many are better, to how many are not worse.

        Better and worse are by adjusted p < 0.05, so at 95 % no detector's rank is outside its range.
        """
        names = [value.detector for value in self.ranked(group)]
        first, last = dict.fromkeys(names, 1), dict.fromkeys(names, len(names))
        for each in self.differences:
            if each.group == group and each.adjusted < SIGNIFICANT:
                better, worse = sorted((each.first, each.second), key=names.index)
                first[worse] += 1
                last[better] -= 1
        return {name: f"{first[name]}-{last[name]}" if first[name] < last[name] else str(first[name]) for name in names}

    def record(self) -> dict[str, Any]:
        """All of it as JSON takes it; what could not be computed is None."""
        made = asdict(self)
        for difference in made["differences"]:
            difference.update({name: None for name in ("p", "adjusted") if np.isnan(difference[name])})
        return {**made, "method": self.method}

    @property
    def method(self) -> str:
        """How intervals and p values were made, in one sentence."""
        adjusted = "Holm" if self.choice.uses_delong else "step-down max-T"
        count = f"{len(self.differences)} difference{'s' * (len(self.differences) != 1)}"
        return f"{self.choice.intervals(self.networks)}, p by {adjusted} over {count}"
