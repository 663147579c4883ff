"""Print, as Markdown, those verdicts that the published tables of the grid allow: grid.csv and interventions.csv.

    python scripts/study/dynamics/recheck.py docs/dynamics

The tables hold each run's onset and its last epoch. What needs epochs before is read by findings.py from trajectories
alone. Of fn* the means of FN_STAR are known; pScore and MSP are compared at the last epoch, of runs without an onset.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from claims import Finding
from claims.finding import adjusted
from claims.intervention import FACTOR, attractor
from claims.reference import concentration, in_protocol
from claims.structure import activation, depth, weight_decay, width
from claims.training import cross_entropy, early_detection
from findings import claims_text

from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import SEED
from nci_plugin.dynamics.onset import CENSORED, ONSET, Onset, OnsetRule
from nci_plugin.dynamics.trajectory import FN, GROUPS, LAST_PHASE, EpochRecord, Trajectory

FN_STAR = {(256, 5): 3.24, (512, 5): 3.64, (256, 8): 4.916}
"""Width and depth -> mean fn* of the MLPs within the protocol that had an onset, as docs/dynamics.md gives it."""

CONDITIONS = (
    *("architecture", "data", "width", "depth", "activation", "head", "loss", "weight_decay", "epochs"),
    SEED,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print the verdicts that the published tables allow.")
    parser.add_argument("directory", type=Path, help="with grid.csv and interventions.csv")
    directory = parser.parse_args(arguments).directory
    print("\n\n".join(claims_text(findings(*(_rows(directory / f"{name}.csv") for name in ("grid", "interventions"))))))
    return 0


def findings(grid: Sequence[Mapping[str, Any]], interventions: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The findings of rows of grid.csv and interventions.csv, adjusted for each other alone."""
    analysis = _analysis(grid)
    at_end = int(max(row["epochs"] for row in grid))
    variation = concentration(analysis)
    measured = f"{variation.measured}, or more: fn* of a run is the mean of its level"
    return adjusted([
        replace(variation, measured=measured, interval="-"),
        attractor(analysis, _intervened(interventions)),
        depth(analysis),
        activation(analysis),
        weight_decay(analysis),
        width(analysis),
        cross_entropy(analysis),
        *early_detection(analysis, at_end),
    ])  # fmt: skip


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows without the columns in which they have no value."""
    return [
        {name: value for name, value in row.items() if pd.notna(value)} for row in pd.read_csv(path).to_dict("records")
    ]


def _analysis(rows: Sequence[Mapping[str, Any]]) -> Analysis:
    runs, onsets = [], {}
    for place, row in enumerate(rows):
        name, last = f"run {place}", int(row["epochs"])
        auroc = {
            detector: {group: row.get(f"{detector}_{group.replace(' ', '_')}") for group in GROUPS}
            for detector in ("pscore", "msp")
        }
        # Of NC1 the claims read the smallest alone.
        record = EpochRecord(last, collapse={"nc1_quotient": row["smallest_nc1"]}, auroc=auroc)
        run = Trajectory(name, _conditions(row), [record])
        star = FN_STAR.get((row["width"], row["depth"])) if "onset" in row and in_protocol(run) else None
        onsets[name] = Onset(name, ONSET if "onset" in row else CENSORED, int(row.get("onset", last)), None, star)
        runs.append(run)
    return Analysis(OnsetRule(phase=LAST_PHASE), runs, onsets, [], [], [], [], [])


def _intervened(rows: Sequence[Mapping[str, Any]]) -> list[Trajectory]:
    by_run: dict[tuple[float, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_run.setdefault((row[FACTOR], row[SEED]), []).append(row)
    runs = []
    for (factor, seed), some in by_run.items():
        done = EpochRecord(int(some[0]["at"]), probe={"intervention": {"fn_after": some[0]["fn_after"]}})
        later = [EpochRecord(int(row["epoch"]), collapse={FN: row["fn"]}) for row in some]
        conditions = {**_conditions(some[0]), FACTOR: factor}
        runs.append(Trajectory(f"x{factor:g} s{seed}", conditions, [done, *later]))
    return runs


def _conditions(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in CONDITIONS if name in row}


if __name__ == "__main__":
    raise SystemExit(main())
