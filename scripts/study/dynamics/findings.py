"""Print, as Markdown, what a directory of trajectories says of each claim about collapse along training.

    python scripts/study/dynamics/findings.py results/dynamics_digits > findings.md

Reads every trajectory.jsonl below the directory and measures nothing. Runs whose features were scaled while they were
trained count for the claim about that alone. Each claim has a verdict by a rule that stands below it; the tables of the
analysis follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from claims import Finding, findings
from claims.intervention import is_intervened
from significance import SIGNIFICANT
from tables import invariance_table, probe_table

from nci_plugin.checks import PluginError
from nci_plugin.dynamics.analysis import Analysis, analyse
from nci_plugin.dynamics.onset import OnsetRule, count_outcomes
from nci_plugin.dynamics.trajectory import LAST_PHASE, Trajectory, find_trajectories, read_trajectory
from nci_plugin.report.dynamics_tables import (
    best_epoch_table,
    correlation_tables,
    overtaking_table,
    predictor_table,
    reference_table,
)
from nci_plugin.report.tables import Table


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
        print(f"findings: {error}", file=sys.stderr)
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
            *claims_text(found),
            *(part for table in tables if table is not None for part in _section(table)),
        ]
    )


def claims_text(found: Sequence[Finding]) -> list[str]:
    """The claims as a table, and the rules of their verdicts."""
    return [
        markdown([["claim", "measured", "n", "interval", "p (q)", "verdict"], *(_row(each) for each in found)]),
        "p is of the test that the claim's rule names, q is p adjusted for all claims with one (Benjamini & Hochberg"
        f" 1995): a claim is confirmed only where q < {SIGNIFICANT:g} too. No p-value sees that conditions differ in"
        " one thing alone, and are not quite independent.",
        "## Rules of the verdicts",
        "\n".join(f"- {each.claim}: {each.rule}." for each in found),
    ]


def _row(each: Finding) -> list[str]:
    p = "-" if each.p is None or each.q is None else f"{each.p:.2g} ({each.q:.2g})"
    return [each.claim, each.measured, each.n, each.interval, p, f"**{each.verdict}**"]


def _section(table: Table) -> list[str]:
    return [f"## {table.title}", markdown(table.rows), *table.notes]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of rows of one length, the header first."""
    header, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *others])


if __name__ == "__main__":
    raise SystemExit(main())
