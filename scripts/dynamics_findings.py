"""Print, as Markdown, what a directory of trajectories says of each claim about collapse along training.

    python scripts/dynamics_findings.py results/dynamics_digits > findings.md

Reads every trajectory.jsonl below the directory and measures nothing. Runs whose features were scaled while they were
trained count for the claim about that alone. Each claim has a verdict by a rule that stands below it; the tables of the
analysis follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nci_plugin.checks import PluginError
from nci_plugin.dynamics.analysis import Analysis, analyse
from nci_plugin.dynamics.claims import Finding, findings
from nci_plugin.dynamics.claims.intervention import is_intervened
from nci_plugin.dynamics.measure import DETECTORS
from nci_plugin.dynamics.onset import OnsetRule, count_outcomes
from nci_plugin.dynamics.trajectory import LAST_PHASE, Trajectory, find_trajectories, read_trajectory
from nci_plugin.report.dynamics_tables import (
    best_epoch_table,
    correlation_tables,
    invariance_table,
    overtaking_table,
    predictor_table,
    reference_table,
)
from nci_plugin.report.tables import Table

CLEAN, NC1 = "clean", "nc1_quotient"
"""The probe's answer for the images as they are, and the metric that its table shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print the findings of a directory of trajectories as Markdown.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--metric", default=OnsetRule.metric)
    parser.add_argument("--threshold", type=float, default=OnsetRule.threshold)
    parser.add_argument("--sustained", type=int, default=OnsetRule.sustained)
    parser.add_argument("--phase", default=LAST_PHASE)
    options = parser.parse_args(arguments)
    try:
        files = find_trajectories(options.directory)
        if not files:
            raise PluginError(
                f"'{options.directory}': holds no trajectory.jsonl, nor does any directory below; log some runs"
            )
        rule = OnsetRule(options.metric, options.threshold, sustained=options.sustained, phase=options.phase)
        runs = [read_trajectory(file) for file in files]
        ordinary = [run for run in runs if not is_intervened(run)]
        print(page(analyse(ordinary, rule), [run for run in runs if is_intervened(run)]))
    except PluginError as error:
        print(f"dynamics_findings: {error}", file=sys.stderr)
        return 2
    return 0


def page(analysis: Analysis, intervened: Sequence[Trajectory] = ()) -> str:
    """The claims, each with its verdict, and the tables that they are read from."""
    found = findings(analysis, intervened)
    counts = count_outcomes(list(analysis.onsets.values()))
    epochs = sum(len(run.records) for run in analysis.runs)
    tables = [
        reference_table(analysis),
        invariance_table(analysis),
        predictor_table(analysis),
        best_epoch_table(analysis),
        overtaking_table(analysis),
        *correlation_tables(analysis),
        probe_table(analysis.runs),
    ]
    return "\n\n".join(
        [
            "# Collapse along training: findings",
            f"{len(analysis.runs)} runs with {epochs} measured epochs, {len(intervened)} more with an intervention;"
            f" onset: {analysis.rule}; {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}.",
            markdown([["claim", "measured", "n", "interval", "verdict"], *(_row(each) for each in found)]),
            "## Rules of the verdicts",
            "\n".join(f"- {each.claim}: {each.rule}." for each in found),
            *(part for table in tables if table is not None for part in _section(table)),
        ]
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


def _row(each: Finding) -> list[str]:
    return [each.claim, each.measured, each.n, each.interval, f"**{each.verdict}**"]


def _section(table: Table) -> list[str]:
    return [f"## {table.title}", markdown(table.rows), *table.notes]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of rows of one length, the header first."""
    header, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *others])


if __name__ == "__main__":
    raise SystemExit(main())
