"""The tables of the study that ``nci-ood dynamics`` does not print."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from invariance import DECIDING, NO_DIFFERENCE, TOO_FEW, invariances
from significance import PERMUTATIONS, SIGNIFICANT

from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.measure import DETECTORS
from nci_plugin.dynamics.trajectory import Trajectory
from nci_plugin.report.cells import UNKNOWN, percent
from nci_plugin.report.tables import Table

CLEAN, NC1 = "clean", "nc1_quotient"
"""The probe's answer for the images as they are, and the metric that its table shows."""


def invariance_table(analysis: Analysis) -> Table | None:
    """Whether conditions move fn*; None where no condition varies alone."""
    found = invariances(analysis.runs, analysis.onsets)
    if not found:
        return None
    tests = list(found[0].p)
    rows = [["condition", "architecture, data", "n by level", "mean fn* by level", "shift %", *tests, "verdict"]]
    for each in found:
        counts = ", ".join(f"{level}: {n}" for level, n in each.n.items()) or UNKNOWN
        means = ", ".join(f"{level}: {value:.4g}" for level, value in each.means.items()) or UNKNOWN
        p_values = [UNKNOWN if each.p[name] is None else f"{each.p[name]:.2g}" for name in tests]
        rows.append([
            each.factor, ", ".join(each.group), counts, means, percent(each.shift, 100), *p_values, each.verdict
        ])  # fmt: skip
    return Table(
        "Is fn* invariant? p-values over the levels of one condition, all others held",
        rows,
        [
            f"verdict by {DECIDING} ({PERMUTATIONS:,} permutations) at {SIGNIFICANT:g} / {len(found)} (Bonferroni);"
            f" '{TOO_FEW}': levels without overlap would not reach it; '{NO_DIFFERENCE}' is not evidence that there is"
            " none: read n and shift (largest less smallest mean of a level, of the mean)"
        ],
    )


def probe_table(runs: Sequence[Trajectory]) -> Table | None:
    """Attacked ID images after the first epoch, at the end of the first phase and of the run: means over seeds."""
    cells: dict[tuple[str, ...], list[list[float]]] = {}
    for run in runs:
        probed = [record for record in run.records if CLEAN in (record.probe or {}) and record.epoch > 0]
        if not probed:
            continue
        before = [record for record in probed if record.phase == probed[0].phase]
        moments = {"first epoch": probed[0], f"end of {before[-1].phase}": before[-1], "end": probed[-1]}
        group = f"{run.conditions['architecture']}, {run.conditions['data']}"
        for moment, record in moments.items():
            for attack, answer in (record.probe or {}).items():
                areas = answer.get("auroc", {})
                numbers = [answer["accuracy"], answer[NC1], *(areas.get(name, np.nan) for name in DETECTORS)]
                cells.setdefault((group, moment, attack), []).append(numbers)
    if not cells:
        return None
    header = ["architecture, data", "when", "attack", "runs", "accuracy %", "NC1", *(f"{name} %" for name in DETECTORS)]
    rows = [[*key, str(len(values)), *_means(values)] for key, values in cells.items()]
    note = "NC1 is Tr(Sigma_W) / Tr(Sigma_B) of those images; a detector's AUROC tells clean ones from attacked ones"
    return Table("Attacked images along training, means over runs", [header, *rows], [note])


def _means(values: Sequence[Sequence[float]]) -> list[str]:
    return ["-" if np.isnan(mean) else f"{mean:.3g}" for mean in np.mean(values, axis=0)]
