"""What is claimed of cross-entropy alone, and of detection early in training."""

from __future__ import annotations

import numpy as np
from scipy import stats
from significance import SIGNIFICANT, signed_rank, t_interval
from slices import by_condition

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_SMALLEST_NC1,
    Finding,
    interval_text,
    proportion,
    significant,
    untested,
)
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.detection import BASELINE, SCORE
from nci_plugin.dynamics.intervals import LEAST
from nci_plugin.dynamics.onset import Onset
from nci_plugin.dynamics.trajectory import GROUPS, Trajectory

NEVER_SHARE = 0.05
"""``never``: in less than this share of runs."""

EARLY = 10
"""The epoch by which the two are compared, one for all runs: where it is chosen by them, chance alone finds one."""


def cross_entropy(analysis: Analysis) -> Finding:
    rule_text = str(analysis.rule)
    claim = (
        f"with cross-entropy alone the threshold is never reached (smallest NC1 published: {PUBLISHED_SMALLEST_NC1:g})"
    )
    rule = (
        f"not confirmed: some run has an onset ({rule_text}); confirmed: none has, of so many runs, taken as"
        f" independent, that the share is below {NEVER_SHARE:.0%} (exact, p < {SIGNIFICANT:g})"
    )
    runs = [run for run in analysis.runs if run.conditions.get("loss") == "ce"]
    if not runs:
        return untested(claim, rule, "no run with the condition loss=ce")
    reached = sum(analysis.onsets[run.run].observed for run in runs)
    metric = analysis.rule.metric
    smallest = [float(np.nanmin(run.series(metric))) for run in runs if run.logs(metric)]
    longest = max((int(run.epochs[-1]) for run in runs if len(run.epochs)), default=0)
    p = float(stats.binom.cdf(reached, len(runs), NEVER_SHARE))
    return Finding(
        claim,
        f"reached in {reached} of {len(runs)} runs; smallest {metric} {min(smallest, default=np.nan):.3g}, longest run"
        f" {longest} epochs",
        str(len(runs)),
        f"share reached {interval_text(proportion(reached, len(runs)), '.0%')}",
        NOT_CONFIRMED if reached else CONFIRMED if significant(p) else CANNOT_TELL,
        rule,
        p,
    )


def early_detection(analysis: Analysis, epoch: int = EARLY) -> list[Finding]:
    """The NCI paper's: pScore beats the baseline long before collapse is complete (Liu & Qin, CVPR 2025)."""
    rule = (
        f"AUROC of {SCORE} less that of {BASELINE} at the last measured epoch up to {epoch}, of runs without an onset"
        f" by then, a mean over seeds for each condition: confirmed where it is above 0 (Wilcoxon over at least {LEAST}"
        f" conditions, one side, p < {SIGNIFICANT:g}), not confirmed where below in the same way; conditions that"
        " differ in one thing alone are taken as independent"
    )
    results = []
    for group in GROUPS:
        differences = {run.run: _difference(run, analysis.onsets[run.run], group, epoch) for run in analysis.runs}
        known = {name: value for name, value in differences.items() if value is not None}
        if not known:
            continue
        values = list(by_condition(analysis.runs, known).values())
        p = signed_rank(values) if len(values) >= LEAST else None
        below = len(values) >= LEAST and significant(signed_rank([-value for value in values]))
        above = sum(value > 0 for value in values)
        results.append(
            Finding(
                f"{SCORE} beats {BASELINE} before collapse sets in, {group}-OOD (Liu & Qin, CVPR 2025)",
                f"by {np.mean(values):+.1f} points at epoch {epoch}, above 0 in {above} of {len(values)} conditions",
                f"{len(values)} conditions, {len(known)} runs",
                interval_text(t_interval(values), "+.1f"),
                CONFIRMED if significant(p) else NOT_CONFIRMED if below else CANNOT_TELL,
                rule,
                p,
            )
        )
    return results


def _difference(run: Trajectory, onset: Onset, group: str, epoch: int) -> float | None:
    """In points, at the last epoch up to ``epoch`` at which both were measured; None with an onset by then."""
    found = run.auroc(SCORE, group) - run.auroc(BASELINE, group)
    places = np.flatnonzero(np.isfinite(found) & (run.epochs <= epoch))
    if not len(places) or (onset.observed and onset.epoch <= run.epochs[places[-1]]):
        return None
    return float(found[places[-1]])
