"""NCI without OOD images: every network, every detector, and the rules that were tried, in one page of tables.

    nci-ood train digits && nci-ood eval digits --output results/digits_standard
    python scripts/study/nci_without_ood.py results/digits_standard ...
    python scripts/study/nci_without_ood.py --quick

Takes results directories of `nci-ood eval` in which the features of all splits are stored, the training split's too (a
detector such as knn or nci_plus asks for them), and prints Markdown: the AUROC of each detector, the rules for alpha,
and what a biased mu_G does. ``--page`` puts it below the line of docs/nci_without_ood.md that says so, and ``--csv``
writes the numbers. ``--quick`` trains one network of the benchmark digits in a temporary directory and measures that.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from alpha_rules import GRID, RULES
from stored import Network, networks

from nci_plugin import evaluate

DESIGN = ("digits_standard", "digits_overfit", "digits_lt", "cifar10_resnet20", "cifar10_resnet32")
"""Directories of the networks on which rules and forms were compared. Of the others, for `nci_auto` only DenseNet on
CIFAR-10 had not been looked at when midpoints took the place of the rule before, see docs/nci_without_ood.md."""

DETECTORS = ["msp", "nci", "nci_auto", "nci_plus", "pscore", "feature_norm", "neco", "mds_pp", "rmds_pp", "ora", "knn"]
OWN = ["nci_auto", "nci_plus"]
ORACLE = "nci, best alpha on the test sets"
MARK = "<!-- below: python scripts/study/nci_without_ood.py -->"
CENTRES = {"skewed": "half of the classes 10 times rarer", "1 %": "1 % of each class", "one": "one sample a class"}
DRAWS = 5

Pair = np.ndarray
"""AUROC near and far, in percent."""


# -------------------------------------------------------------------- measurements of one network


def detectors(network: Network) -> dict[str, dict[str, Pair]]:
    """Near and far AUROC by setting (ood, fsood) and detector."""
    done = evaluate(network.head, network.benchmark(), DETECTORS, device="cpu", progress=False)
    for name, reason in done.failures.items():
        print(f"{network.name} {network.seed}: {name} left out: {reason}", file=sys.stderr)
    found: dict[str, dict[str, Pair]] = {}
    for result in done.results:
        if result.dataset in ("nearood", "farood"):
            pair = found.setdefault(result.setting, {}).setdefault(result.detector, np.full(2, np.nan))
            pair[int(result.dataset == "farood")] = result.auroc
    found["ood"][ORACLE] = max((network.nci(alpha) for alpha in (0.0, *GRID)), key=np.mean)
    return found


def centres(network: Network) -> dict[str, Pair]:
    """Near and far AUROC of pScore with mu_G of parts of the training set, the mean of several draws."""
    train = network.rows["id/train"]
    means = {
        CENTRES[name]: [train.h[part(network, name, seed)].mean(axis=0) for seed in range(DRAWS)] for name in CENTRES
    }
    means = {"all": [train.h.mean(axis=0)], **means}
    return {
        name: np.mean(
            [network.aurocs({s: network.p_score(r.h, r.z, mean) for s, r in network.rows.items()}) for mean in each],
            axis=0,
        )
        for name, each in means.items()
    }


def part(network: Network, name: str, seed: int) -> np.ndarray:
    """Rows of the training set that are drawn."""
    labels, generator = network.rows["id/train"].y, np.random.default_rng(seed)
    rare = generator.permutation(network.head.num_classes)[: network.head.num_classes // 2]
    rows = []
    for label in np.unique(labels):
        own = generator.permutation(np.flatnonzero(labels == label))
        share = {"skewed": 0.1 if label in rare else 1.0, "1 %": 0.01, "one": 0.0}[name]
        rows.append(own[: max(1, round(share * len(own)))])
    return np.concatenate(rows)


# -------------------------------------------------------------------- tables


def cell(pair: Pair | None) -> str:
    return "" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"


def markdown(columns: Sequence[str], rows: Mapping[str, Mapping[str, Pair]]) -> Iterable[str]:
    """A table of pairs; the largest of a row is not marked, since no detector is the largest in both."""
    yield f"| | {' | '.join(columns)} |"
    yield "|---|" + "---|" * len(columns)
    for name, pairs in rows.items():
        yield f"| {name} | {' | '.join(cell(pairs.get(column)) for column in columns)} |"


def mean(pairs: Sequence[Mapping[str, Pair]]) -> dict[str, Pair]:
    """Means over networks, of the columns that all of them have."""
    names = [name for name in pairs[0] if all(name in each for each in pairs)] if pairs else []
    return {name: np.mean([each[name] for each in pairs], axis=0) for name in names}


def with_means(by_name: Mapping[str, Mapping[str, Pair]]) -> dict[str, Mapping[str, Pair]]:
    """Design networks, held-out networks, and the mean of each group."""
    design = {f"{name} (design)": pairs for name, pairs in by_name.items() if name in DESIGN}
    held_out = {name: pairs for name, pairs in by_name.items() if name not in DESIGN}
    rows: dict[str, Mapping[str, Pair]] = {}
    for title, group in (("mean of the design networks", design), ("mean of the other networks", held_out)):
        if group:
            rows |= {**group, f"**{title}**": mean(list(group.values()))}
    return rows


def report(found: Sequence[Network]) -> Iterable[tuple[str, dict[str, Mapping[str, Pair]]]]:
    """Title and rows of each table; a row is the mean over the seeds of a directory."""
    seeds: dict[str, list[Network]] = {}
    for network in found:
        seeds.setdefault(network.name, []).append(network)
    scored = {name: [detectors(each) for each in group] for name, group in seeds.items()}
    for setting, title in (("ood", "AUROC near / far"), ("fsood", "Full spectrum: AUROC near / far")):
        rows = {name: mean([each[setting] for each in group]) for name, group in scored.items() if setting in group[0]}
        if not rows:
            continue
        yield title, with_means(rows)
        gains = {
            name: {own: pairs[own] - pairs["nci"] for own in OWN if {own, "nci"} <= pairs.keys()}
            for name, pairs in rows.items()
        }
        yield f"{title}, less that of nci with OpenOOD's alpha", with_means(gains)
    rules = {
        name: mean([{rule: each.nci(f(each)) for rule, f in RULES.items()} for each in group])
        for name, group in seeds.items()
    }
    openood = {
        name: {"OpenOOD's search": mean([each["ood"] for each in group])["nci"]} for name, group in scored.items()
    }
    yield (
        "NCI by the rule for alpha: AUROC near / far",
        with_means({name: openood[name] | rules[name] for name in seeds}),
    )
    yield (
        "pScore by the sample of mu_G: AUROC near / far",
        with_means({name: mean([centres(each) for each in group]) for name, group in seeds.items()}),
    )


def transposed(rows: Mapping[str, Mapping[str, Pair]]) -> dict[str, dict[str, Pair]]:
    columns = dict.fromkeys(column for pairs in rows.values() for column in pairs)
    return {column: {name: pairs[column] for name, pairs in rows.items() if column in pairs} for column in columns}


def quick(directory: Path) -> list[Path]:
    """A results directory of the benchmark digits, made with the package's own commands."""
    data, checkpoints, output = (directory / name for name in ("data", "checkpoints", "digits_standard"))
    command = [sys.executable, "-m", "nci_plugin"]
    subprocess.run([*command, "train", "digits", "--data-root", data, "--output", checkpoints], check=True)
    evaluation = ["--data-root", data, "--ckpt-path", checkpoints, "--detectors", "knn", "--output", output]
    subprocess.run([*command, "eval", "digits", *evaluation], check=True)
    return [output]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="results directories with stored features")
    parser.add_argument("--quick", action="store_true", help="the benchmark digits alone, from nothing")
    parser.add_argument("--page", type=Path, help="put the tables below the marked line of this file")
    parser.add_argument("--csv", type=Path, help="write every number to this file")
    options = parser.parse_args()
    if options.quick == bool(options.results):
        parser.error("give results directories, or --quick")
    with tempfile.TemporaryDirectory() as directory:
        tables = list(report(list(networks(quick(Path(directory)) if options.quick else options.results))))
    lines = [
        line for title, rows in tables for line in ("", f"### {title}", "", *markdown(list(rows), transposed(rows)))
    ]
    print("\n".join(lines))
    if options.page:
        prose = options.page.read_text(encoding="utf-8").split(MARK)[0]
        options.page.write_text("\n".join([f"{prose}{MARK}", *lines, ""]), encoding="utf-8")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["table", "network", "column", "near", "far"])
            for title, rows in tables:
                for name, pairs in rows.items():
                    writer.writerows(
                        [title, name.strip("*"), column, *np.round(pair, 3)] for column, pair in pairs.items()
                    )


if __name__ == "__main__":
    main()
