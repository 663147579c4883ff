"""What is claimed of scaling the features in the midst of a training: fn comes back to fn* by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from intervention import recovery
from significance import SIGNIFICANT, t_interval, within
from slices import by_condition

from claims.finding import CANNOT_TELL, CONFIRMED, NOT_CONFIRMED, Finding, interval_text, significant, untested
from claims.reference import fn_at_onset
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import SEED, Key, key
from nci_plugin.dynamics.intervals import LEVEL
from nci_plugin.dynamics.trajectory import FN, Trajectory

FACTOR = "factor"
"""The condition of a run that was intervened in; the runs without it have all other conditions."""

TOLERANCE = 0.2
"""How far a mean recovery may be from the whole way back."""

LEAST_OF_A_FACTOR = 3


def is_intervened(run: Trajectory) -> bool:
    """Whether the features of a run were scaled; fn* and what foretells it are about runs in which they were not."""
    return any("intervention" in (record.probe or {}) for record in run.records)


def attractor(analysis: Analysis, intervened: Sequence[Trajectory]) -> Finding:
    """fn at the last epoch of a run against fn right after the intervention, and fn* of the condition."""
    claim = "fn* is an attractor: after the features were scaled, fn returns to fn*, from either side"
    rule = (
        "share of the way back to the mean fn* of the condition's runs that had an onset (1: all of it), at the last"
        f" epoch: confirmed where for each factor, some above 1 and some below, its mean lies within 1 ± {TOLERANCE:g}"
        f" (two one-sided t-tests, p < {SIGNIFICANT:g}); not confirmed where else some factor's {LEVEL:.0%} t-interval"
        " lies outside, or that of the difference of the two directions, paired by run, excludes 0"
    )
    stars = by_condition(
        analysis.runs, {run.run: fn for run in analysis.runs if (fn := fn_at_onset(analysis, run)) is not None}
    )
    shares: dict[float, list[float]] = {}
    directions: dict[Key, dict[bool, list[float]]] = {}
    for run in intervened:
        condition, factor = key(run, without=(SEED, FACTOR)), float(run.conditions[FACTOR])
        if (share := _share(run, stars.get(condition))) is not None:
            shares.setdefault(factor, []).append(share)
            directions.setdefault(key(run, without=(FACTOR,)), {}).setdefault(factor > 1, []).append(share)
    shares = {factor: some for factor, some in shares.items() if len(some) >= LEAST_OF_A_FACTOR}
    if not shares:
        return untested(claim, rule, f"no factor has {LEAST_OF_A_FACTOR} runs whose condition has an onset")
    bounds = {factor: t_interval(some) for factor, some in shares.items()}
    paired = [float(np.mean(each[True]) - np.mean(each[False])) for each in directions.values() if len(each) == 2]
    apart = t_interval(paired)
    p = max(within(some, 1 - TOLERANCE, 1 + TOLERANCE) for some in shares.values())
    both = len({factor > 1 for factor in shares}) == 2
    outside = any(each and (each[1] < 1 - TOLERANCE or each[0] > 1 + TOLERANCE) for each in bounds.values())
    differ = apart is not None and not apart[0] <= 0 <= apart[1]
    return Finding(
        claim,
        "mean share of the way back "
        + ", ".join(f"{np.mean(some):.2f} after scaling by {factor:g}" for factor, some in shares.items())
        + (f"; directions differ by {np.mean(paired):+.2f} {interval_text(apart, '.2f')}" if apart else ""),
        ", ".join(str(len(some)) for some in shares.values()),
        ", ".join(interval_text(each, ".2f") for each in bounds.values()),
        CONFIRMED if both and significant(p) else NOT_CONFIRMED if outside or differ else CANNOT_TELL,
        rule,
        p,
    )


def _share(run: Trajectory, star: float | None) -> float | None:
    """`recovery` at the last epoch after the intervention; None where there is none, or no fn*."""
    done = next(record for record in run.records if "intervention" in (record.probe or {}))
    later = [fn for record in run.records if record.epoch > done.epoch and (fn := record.collapse.get(FN)) is not None]
    if star is None or not later:
        return None
    return recovery((done.probe or {})["intervention"]["fn_after"], later[-1], star)
