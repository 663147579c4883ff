"""How detection goes with collapse: rank correlation of every collapse metric with every detector's AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nci_plugin.dynamics.detection import measured
from nci_plugin.dynamics.intervals import LEAST, RESAMPLES, Interval, percentiles
from nci_plugin.dynamics.trajectory import FN, NC4_TRAIN, Trajectory

METRICS = (
    "nc1_quotient",
    "nc1_pinv",
    "nc1_cdnv",
    "nc2_equinorm_means",
    "nc2_equiangular_means",
    "nc2_etf_error",
    "nc3_self_duality",
    NC4_TRAIN,
    FN,
    "mean_norm_l1",
)
"""What of ``EpochRecord.collapse`` is correlated with detection."""

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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def correlations(runs: Sequence[Trajectory], resamples: int = RESAMPLES, seed: int = 0) -> list[Correlation]:
    """Every metric of METRICS that is logged with every detector and group, over the checkpoints that have both."""
    metrics = [name for name in METRICS if any(run.logs(name) for run in runs)]
    columns = list(dict.fromkeys((detector, group) for run in runs for detector, group, _ in measured(run)))
    if not metrics or not columns:
        return []
    metric_parts = [np.column_stack([_series(run, name) for name in metrics]) for run in runs]
    auroc_parts = [np.column_stack([run.auroc(*column) for column in columns]) for run in runs]
    found: list[Correlation] = []
    # What is known at the same checkpoints is resampled together.
    for some_metrics in _known_together(metric_parts):
        for some_columns in _known_together(auroc_parts):
            blocks = [(a[:, some_columns], m[:, some_metrics]) for a, m in zip(auroc_parts, metric_parts)]
            kept = [np.isfinite(a).all(axis=1) & np.isfinite(m).all(axis=1) for a, m in blocks]
            blocks = [(a[rows], m[rows]) for (a, m), rows in zip(blocks, kept) if rows.any()]
            names = [(metrics[m], *columns[c]) for c in some_columns for m in some_metrics]
            found += _correlate(names, blocks, resamples, seed)
    order = {(name, *column): place for place, (column, name) in enumerate((c, m) for c in columns for m in metrics)}
    return sorted(found, key=lambda each: order[each.metric, each.detector, each.group])


def spearman(first: Table, second: Table) -> Table:
    """Spearman's rho of all columns of (n, a) with all of (n, b), (a, b); NaN where one is constant or n < 3."""
    if len(first) < 3:
        return np.full((first.shape[1], second.shape[1]), np.nan)
    return _weighted_rho(_codes(first), _codes(second), np.ones(len(first)))


def _codes(table: Table) -> Table:
    """The place of each value among the distinct ones of its column, (n, columns)."""
    return np.column_stack([np.unique(column, return_inverse=True)[1] for column in table.T])


def _weighted_rho(first: Table, second: Table, weights: Table) -> Table:
    """`spearman` of codes whose rows count ``weights`` (n,) times: a resample costs no sorting."""
    x, y = (_standardised(codes, weights) for codes in (first, second))
    return x.T @ y


def _standardised(codes: Table, weights: Table) -> Table:
    """Mean ranks (n, columns) less their mean, times the root of the weights, divided by their length."""
    counts = [np.bincount(column, weights) for column in codes.T]
    ranks = np.column_stack([(np.cumsum(n) - n / 2)[column] for n, column in zip(counts, codes.T)])
    scaled = (ranks - weights @ ranks / weights.sum()) * np.sqrt(weights)[:, None]
    lengths = np.sqrt((scaled**2).sum(axis=0))
    constant = lengths < 1e-9 * weights.sum()  # what rounding leaves of it
    return np.divide(scaled, lengths, out=np.full_like(scaled, np.nan), where=~constant)


def _correlate(
    names: Sequence[tuple[str, str, str]], blocks: Sequence[tuple[Table, Table]], resamples: int, seed: int
) -> list[Correlation]:
    """``blocks`` are (AUROC, metrics) of the checkpoints of each run, ``names`` those of all pairs of their columns."""
    if not blocks:
        return []
    auroc, metrics = (_codes(np.concatenate(parts)) for parts in zip(*blocks))
    lengths = [len(block[0]) for block in blocks]
    each_run = np.array([spearman(*block).ravel() for block in blocks])
    drawn_rho, drawn_within = [], []
    if len(blocks) >= LEAST:
        generator = np.random.default_rng(seed)
        for _ in range(resamples):
            drawn = generator.integers(len(blocks), size=len(blocks))
            times = np.bincount(drawn, minlength=len(blocks)).astype(np.float64)
            drawn_rho.append(_weighted_rho(auroc, metrics, np.repeat(times, lengths)).ravel())
            drawn_within.append(_means(each_run[drawn]))
    rho, within = spearman(auroc, metrics).ravel(), _means(each_run)
    return [
        Correlation(
            *name,
            n=len(auroc),
            runs=len(blocks),
            rho=_number(rho[place]),
            interval=_interval(drawn_rho, place, resamples),
            within=_number(within[place]),
            within_interval=_interval(drawn_within, place, resamples),
        )
        for place, name in enumerate(names)
    ]


def _known_together(parts: Sequence[Table]) -> list[list[int]]:
    """The columns, those that are known (not NaN) in the same rows together."""
    known = np.isfinite(np.concatenate(parts))
    sets: dict[bytes, list[int]] = {}
    for column in range(known.shape[1]):
        sets.setdefault(known[:, column].tobytes(), []).append(column)
    return list(sets.values())


def _series(run: Trajectory, name: str) -> Table:
    return run.series(name) if run.logs(name) else np.full(len(run.records), np.nan)


def _means(values: Table) -> Table:
    """Means (m,) over the rows of (n, m) that are known, NaN where none is."""
    counts = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, np.nansum(values, axis=0) / counts, np.nan)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(drawn: Sequence[Table], place: int, resamples: int) -> Interval:
    return percentiles([float(row[place]) for row in drawn if not np.isnan(row[place])], resamples) if drawn else None
