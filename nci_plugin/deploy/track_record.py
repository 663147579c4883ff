"""How often the ranking of `choice` was right, measured on networks whose OOD sets are known.

``data/recommended.csv`` holds what was measured; `scripts/study/recommended.py` makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd

CLOSE = 1.0
"""Points of AUROC: a choice within so many of the best is called right."""


@dataclass(frozen=True)
class TrackRecord:
    """How the rule did on ``networks`` networks whose OOD sets are known.

    ``right`` of them had a first that was within `CLOSE` points of the best candidate; ``loss`` is how many points of
    AUROC it lies below the best, in the mean. ``fixed`` are those of always taking one detector: for each network the
    best in the mean over the *others*, which was ``names`` most often.
    """

    networks: int
    right: int
    loss: float
    fixed_right: int
    fixed_loss: float
    fixed_name: str

    def __str__(self) -> str:
        better = self.loss < self.fixed_loss
        verdict = "better" if better else "no better"
        advice = "" if better else f" (where nothing else is known, take {self.fixed_name})"
        return (
            f"on {self.networks} networks whose OOD sets are known, the first of this ranking was within {CLOSE:g}"
            f" point of the best in {self.right}, and {self.loss:.2f} points of AUROC below it in the mean; always"
            f" taking the detector that was best on the other networks (most often {self.fixed_name}) was so in"
            f" {self.fixed_right}, and {self.fixed_loss:.2f} points below: the ranking is"
            f" {verdict} than that fixed choice there{advice}"
        )


@dataclass(frozen=True)
class MeasuredRow:
    """A candidate on a network whose OOD sets are known: its true AUROC and the rule's, in percent."""

    network: str
    detector: str
    truth: float
    rule: float


def measured_rows() -> list[MeasuredRow]:
    """What was measured, on all networks."""
    with resources.files("nci_plugin.deploy").joinpath("data/recommended.csv").open(encoding="utf-8") as file:
        return [MeasuredRow(*row) for row in pd.read_csv(file).itertuples(index=False)]


def track_record(names: Iterable[str], rows: Sequence[MeasuredRow] | None = None) -> TrackRecord:
    """How the rule, and a fixed choice by leaving one network out, would have done among these candidates."""
    wanted = set(names)
    by_network: dict[str, dict[str, MeasuredRow]] = {}
    for row in measured_rows() if rows is None else rows:
        if row.detector in wanted:
            by_network.setdefault(row.network, {})[row.detector] = row
    rule_losses, fixed_losses, fixed_names = [], [], []
    for network, there in by_network.items():
        best = max(row.truth for row in there.values())
        rule_losses.append(best - max(there.values(), key=lambda row: row.rule).truth)
        others = [each for name, each in by_network.items() if name != network]
        everywhere = [name for name in there if all(name in each for each in others)]
        means = {name: np.mean([each[name].truth for each in others]) for name in everywhere}
        fixed = max(means, key=lambda name: means[name])
        fixed_names.append(fixed)
        fixed_losses.append(best - there[fixed].truth)
    return TrackRecord(
        len(by_network),
        sum(loss <= CLOSE for loss in rule_losses),
        float(np.mean(rule_losses)),
        sum(loss <= CLOSE for loss in fixed_losses),
        float(np.mean(fixed_losses)),
        max(sorted(set(fixed_names)), key=fixed_names.count),
    )
