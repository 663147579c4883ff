"""How detection goes with collapse: rank correlation of every collapse metric with every detector's AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nci_plugin.collapse.registry import EPOCHS, columns
from nci_plugin.dynamics.detection import measured
from nci_plugin.dynamics.intervals import LEAST, RESAMPLES, SEED, Interval, known_mean, percentiles
from nci_plugin.dynamics.trajectory import Trajectory

Table = NDArray[Any]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a collapse metric with a detector's AUROC over ``n`` checkpoints of ``runs`` runs.

    ``rho`` is over all checkpoints together, ``within`` the mean of the rho of each run, which differences between runs
    cannot make; intervals by resampling whole runs, None with fewer than LEAST of them.
    """

    metric: str
    detector: str
    group: str
    n: int
    runs: int
    rho: float | None
    interval: Interval
    within: float | None
    within_interval: Interval


def correlations(runs: Sequence[Trajectory], resamples: int = RESAMPLES) -> list[Correlation]:
    """Every metric along EPOCHS that is logged with every detector and group, over the checkpoints that have both."""
    metrics = [name for name in columns(EPOCHS) if any(run.logs(name) for run in runs)]
    pairs = list(dict.fromkeys((detector, group) for run in runs for detector, group, _ in measured(run)))
    if not metrics or not pairs:
        return []
    aurocs = [np.column_stack([run.auroc(*pair) for pair in pairs]) for run in runs]
    values = [np.column_stack([_series(run, name) for name in metrics]) for run in runs]
    found: dict[tuple[str, str, str], Correlation] = {}
    # What is known at the same checkpoints is resampled together.
    for some in _known_together(aurocs):
        for others in _known_together(values):
            blocks = [(a[:, some], v[:, others]) for a, v in zip(aurocs, values)]
            kept = [np.isfinite(np.hstack(block)).all(axis=1) for block in blocks]
            blocks = [(a[rows], v[rows]) for (a, v), rows in zip(blocks, kept) if rows.any()]
            if blocks:
                names = [(metrics[m], *pairs[p]) for p in some for m in others]
                found.update(zip(names, _correlate(names, blocks, resamples)))
    return [found[(name, *pair)] for pair in pairs for name in metrics if (name, *pair) in found]


def spearman(first: Table, second: Table) -> Table:
    """Spearman's rho of all columns of (n, a) with all of (n, b), (a, b); NaN where one is constant or n < 3."""
    count = first.shape[1]
    if len(first) < 3:
        return np.full((count, second.shape[1]), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # of constant columns
        return np.corrcoef(rankdata(np.hstack([first, second]), axis=0), rowvar=False)[:count, count:]


def _correlate(
    names: Sequence[tuple[str, str, str]], blocks: Sequence[tuple[Table, Table]], resamples: int
) -> list[Correlation]:
    """``blocks`` are (AUROC, metrics) of the checkpoints of each run, ``names`` those of all pairs of their columns."""

    def of(some: Sequence[tuple[Table, Table]]) -> Table:
        return spearman(*map(np.concatenate, zip(*some))).ravel()

    each_run = np.array([of([block]) for block in blocks])
    size = (resamples if len(blocks) >= LEAST else 0, len(blocks))
    draws = np.random.default_rng(SEED).integers(len(blocks), size=size)
    rhos = np.array([of([blocks[place] for place in drawn]) for drawn in draws]).reshape(-1, len(names))
    withins = known_mean(each_run[draws], axis=1)
    return [
        Correlation(*name, sum(len(a) for a, _ in blocks), len(blocks), _number(rho), percentiles(drawn_rho),
                    _number(within), percentiles(drawn_within))
        for name, rho, drawn_rho, within, drawn_within in zip(
            names, of(blocks), rhos.T, known_mean(each_run), withins.T
        )
    ]  # fmt: skip


def _known_together(parts: Sequence[Table]) -> list[list[int]]:
    """The columns, those that are known (not NaN) in the same rows together."""
    sets: dict[bytes, list[int]] = {}
    for place, known in enumerate(np.isfinite(np.concatenate(parts)).T):
        sets.setdefault(known.tobytes(), []).append(place)
    return list(sets.values())


def _series(run: Trajectory, name: str) -> Table:
    return run.series(name) if run.logs(name) else np.full(len(run.records), np.nan)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
