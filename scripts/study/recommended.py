"""How often does `nci-ood recommend` put the right detector first? On networks whose OOD sets are known.

    nci-ood train digits && nci-ood eval digits --output results/digits_standard
    python scripts/study/recommended.py results/digits_standard ... --csv nci_plugin/deploy/data/recommended.csv

Takes results directories of `nci-ood eval` in which the features of all splits are stored, the training split's too (a
detector such as knn or nci_plus asks for them). For each network it ranks the candidates by the rule, which sees the
training and half of the ID validation features alone, and evaluates them on the near and far OOD sets: the truth is
the mean of both AUROC. It prints, for the rule and for each of its parts alone, how often its first was within a point
of the best and how far below it lies in the mean, against always taking the detector that is best in the mean over the
other networks.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from stored import Network, networks

from nci_plugin import evaluate
from nci_plugin.config import load_detector
from nci_plugin.deploy.choice import CANDIDATES, KINDS, rank
from nci_plugin.deploy.fitting import drawn, halves
from nci_plugin.deploy.track_record import CLOSE, MeasuredRow, track_record
from nci_plugin.files import write_atomically

TRAINING_ROWS = 20_000


@dataclass(frozen=True)
class Measured:
    row: MeasuredRow
    by_kind: dict[str, float]


def truth(network: Network) -> dict[str, float]:
    """Mean of near and far AUROC, in percent, of each candidate."""
    done = evaluate(network.head, network.benchmark(), CANDIDATES, device="cpu", progress=False)
    for name, reason in done.failures.items():
        print(f"{network.name} {network.seed}: {name} left out: {reason}", file=sys.stderr)
    found: dict[str, list[float]] = {}
    for result in done.results:
        if result.setting == "ood" and result.dataset in ("nearood", "farood"):
            found.setdefault(result.detector, []).append(result.auroc)
    return {name: float(np.mean(values)) for name, values in found.items()}


def measure(network: Network, seed: int) -> list[Measured]:
    candidates = {name: load_detector(name).detector for name in CANDIDATES}
    train = drawn(network.splits["id/train"], TRAINING_ROWS, seed)
    choosing, _ = halves(network.splits["id/val"], seed)
    ranking, left_out = rank(candidates, train, choosing, network.head, seed)
    for name, reason in left_out.items():
        print(f"{network.name} {network.seed}: {name} not ranked: {reason}", file=sys.stderr)
    known, name = truth(network), f"{network.name} {network.seed}".strip()
    return [
        Measured(MeasuredRow(name, each.name, known[each.name], each.mean), dict(each.by_kind))
        for each in ranking
        if each.name in known
    ]


def table(measured: list[Measured]) -> str:
    rules = {"the rule": [each.row for each in measured]}
    for kind in KINDS:
        rules[kind] = [replace(each.row, rule=each.by_kind.get(kind, 0.0)) for each in measured]
    lines = [f"| rule | first within {CLOSE:g} point of the best | points below the best |", "|---|---|---|"]
    for name, rows in rules.items():
        record = track_record(CANDIDATES, rows)
        lines.append(f"| {name} | {record.right} of {record.networks} | {record.loss:.2f} |")
    lines.append(
        f"| fixed: the best on the others ({record.fixed_name}) | {record.fixed_right} of {record.networks}"
        f" | {record.fixed_loss:.2f} |"
    )
    return "\n".join(lines)


def by_network(measured: list[Measured]) -> str:
    lines = ["| network | best | AUROC | first of the rule | AUROC |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(each.row.network for each in measured):
        rows = [each.row for each in measured if each.row.network == name]
        best, first = max(rows, key=lambda row: row.truth), max(rows, key=lambda row: row.rule)
        lines.append(f"| {name} | {best.detector} | {best.truth:.2f} | {first.detector} | {first.truth:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured: list[Measured] = []
    for network in networks(options.results):
        measured += measure(network, options.seed)
    print(f"{by_network(measured)}\n\n{table(measured)}")
    if options.csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["network", "detector", "truth", "rule"])
        for each in measured:
            writer.writerow([each.row.network, each.row.detector, f"{each.row.truth:.4f}", f"{each.row.rule:.4f}"])
        write_atomically(options.csv, text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
