"""What is claimed of scaling the features in the midst of a training: fn comes back by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from intervention import recovery

from claims.finding import Finding, by_bounds_within, interval_text, untested
from nci_plugin.dynamics.intervals import LEAST, bootstrap_mean
from nci_plugin.dynamics.trajectory import FN, Trajectory

FACTOR = "factor"
"""The condition of a run that was intervened in; its control has all other conditions."""

TOLERANCE = 0.2
"""How far a mean recovery may be from the whole way back."""


def is_intervened(run: Trajectory) -> bool:
    """Whether the features of a run were scaled; fn* and what foretells it are about runs in which they were not."""
    return any("intervention" in (record.probe or {}) for record in run.records)


def attractor(controls: Sequence[Trajectory], intervened: Sequence[Trajectory]) -> Finding:
    """fn at the last epoch that a run and its control both log, against fn right after the intervention."""
    claim = "fn* is an attractor: after the features were scaled, fn returns to what it would have been"
    rule = (
        "share of the way back to the control's fn at the last common epoch (1: all of it), mean over runs: confirmed"
        f" where its bootstrap interval lies within 1 ± {TOLERANCE:g}, not confirmed where outside"
    )
    by_conditions = {tuple(sorted(run.conditions.items())): run for run in controls}
    shares: dict[str, list[float]] = {}
    for run in intervened:
        others = {name: value for name, value in run.conditions.items() if name != FACTOR}
        control = by_conditions.get(tuple(sorted(others.items())))
        if control is not None and (share := _share(run, control)) is not None:
            shares.setdefault(str(run.conditions.get(FACTOR)), []).append(share)
    every = [share for some in shares.values() for share in some]
    if len(every) < LEAST:
        return untested(claim, rule, f"{len(every)} runs were intervened in and have a control, {LEAST} are needed")
    bounds = bootstrap_mean(every)
    return Finding(
        claim,
        "mean share of the way back "
        + ", ".join(f"{np.mean(some):.2f} after scaling by {factor}" for factor, some in shares.items()),
        str(len(every)),
        interval_text(bounds, ".2f"),
        by_bounds_within(bounds, 1 - TOLERANCE, 1 + TOLERANCE),
        rule,
    )


def _share(run: Trajectory, control: Trajectory) -> float | None:
    """`recovery` at the last epoch after the intervention that both log; None where there is none."""
    done = next(record for record in run.records if "intervention" in (record.probe or {}))
    later = {record.epoch: record.collapse.get(FN) for record in run.records if record.epoch > done.epoch}
    there = {record.epoch: record.collapse.get(FN) for record in control.records}
    common = [epoch for epoch, fn in later.items() if fn is not None and there.get(epoch) is not None]
    if not common:
        return None
    after = (done.probe or {})["intervention"]["fn_after"]
    fn, reference = later[common[-1]], there[common[-1]]
    return recovery(after, fn, reference)  # type: ignore[arg-type]  # None was excluded
