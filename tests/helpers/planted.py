"""Trajectories whose answers are planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nci_plugin.dynamics.onset import OnsetRule, find_onset
from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory

RULE = OnsetRule(threshold=0.01, sustained=3)
CONDITIONS = {"architecture": "mlp", "data": "digits", "depth": 2, "seed": 0}


def run_of(
    values: Mapping[str, Sequence[float | None]], run: str = "r", conditions: Mapping[str, Any] | None = None
) -> Trajectory:
    """A run of series by name, logged every 10 epochs; ``mean_norm_l2`` is 1 unless given."""
    length = len(next(iter(values.values())))
    series = {"mean_norm_l2": [1.0] * length, **values}
    own = {field.name for field in dataclasses.fields(EpochRecord)}
    records = [
        EpochRecord(
            epoch=10 * (place + 1),
            collapse={name: each[place] for name, each in series.items() if name not in own},
            **{name: each[place] for name, each in series.items() if name in own},  # type: ignore[arg-type]
        )
        for place in range(length)
    ]
    return Trajectory(run, {**CONDITIONS, **(conditions or {})}, records)


def planted(run: str, onset: int, fn: float = 2.0, lead: int = 40, end: int = 400, **conditions: Any) -> Trajectory:
    """NC1 that falls below 0.01 at ``onset`` and a fn that comes down through ``fn`` at that epoch, exactly; the train
    loss passes 0.5 ``lead`` epochs before, at a value that depends on nothing else."""
    epochs = np.arange(10, end + 1, 10)
    return run_of(
        {
            "nc1_quotient": [0.009 if epoch >= onset else 0.5 for epoch in epochs],
            "mean_norm_l2": [fn + 0.01 * (onset - epoch) for epoch in epochs],
            "train_loss": [0.5 if epoch >= onset - lead else 1.0 for epoch in epochs],
        },
        run,
        conditions,
    )


def onsets_of(runs: Sequence[Trajectory], rule: OnsetRule = RULE) -> dict[str, Any]:
    return {run.run: find_onset(run, rule) for run in runs}
