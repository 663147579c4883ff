"""What is claimed of cross-entropy alone, and of detection early in training."""

from __future__ import annotations

import numpy as np

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_SMALLEST_NC1,
    Finding,
    by_bounds,
    interval_text,
    proportion,
    untested,
)
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.detection import BASELINE, SCORE, overtakings
from nci_plugin.dynamics.intervals import LEAST, LEVEL
from nci_plugin.dynamics.trajectory import GROUPS


def cross_entropy(analysis: Analysis) -> Finding:
    rule_text = str(analysis.rule)
    claim = (
        f"with cross-entropy alone the threshold is never reached (smallest NC1 published: {PUBLISHED_SMALLEST_NC1:g})"
    )
    rule = f"not confirmed: some run has an onset ({rule_text}); confirmed: none of at least {LEAST} has"
    runs = [run for run in analysis.runs if run.conditions.get("loss") == "ce"]
    if not runs:
        return untested(claim, rule, "no run with the condition loss=ce")
    reached = sum(analysis.onsets[run.run].observed for run in runs)
    metric = analysis.rule.metric
    smallest = [float(np.nanmin(run.series(metric))) for run in runs if run.logs(metric)]
    longest = max(int(run.epochs[-1]) for run in runs if len(run.epochs))
    return Finding(
        claim,
        f"reached in {reached} of {len(runs)} runs; smallest {metric} {min(smallest, default=np.nan):.3g}, longest run"
        f" {longest} epochs",
        str(len(runs)),
        f"share reached {interval_text(proportion(reached, len(runs)), '.0%')}",
        NOT_CONFIRMED if reached else CONFIRMED if len(runs) >= LEAST else CANNOT_TELL,
        rule,
    )


def early_detection(analysis: Analysis) -> list[Finding]:
    """The NCI paper's: pScore beats the baseline long before collapse is complete (Liu & Qin, CVPR 2025)."""
    found = [
        each
        for run in analysis.runs
        for each in overtakings(run, analysis.onsets[run.run], analysis.rule.metric, analysis.rule.sustained)
    ]
    results = []
    for group in (each for each in GROUPS if any(one.group == each for one in found)):
        here = [each for each in found if each.group == group]
        early = [
            each
            for each in here
            if each.epoch is not None
            and (not analysis.onsets[each.run].observed or each.epoch < analysis.onsets[each.run].epoch)
        ]
        bounds = proportion(len(early), len(here))
        measures = [each.measure for each in early if each.measure is not None]
        at = f", at a median {analysis.rule.metric} of {np.median(measures):.3g}" if measures else ""
        ahead = float(np.mean([each.ahead for each in here]))
        results.append(
            Finding(
                f"{SCORE} beats {BASELINE} before collapse sets in, {group}-OOD (Liu & Qin, CVPR 2025)",
                f"in {len(early)} of {len(here)} runs, {analysis.rule.sustained} measured epochs in a row{at}; ahead in"
                f" {ahead:.0%} of epochs",
                str(len(here)),
                f"share of runs {interval_text(bounds, '.0%')}",
                by_bounds(bounds, 0.5, below=False),
                "share of runs with such epochs before the onset, or any where there is none: confirmed where its exact"
                f" {LEVEL:.0%} interval lies above a half, not confirmed where below",
            )
        )
    return results
