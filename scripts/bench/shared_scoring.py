"""Scoring by 1, 2 and 4 processes of one thread each: seconds, ratios, and whether the scores are the same bits.

    python scripts/bench/shared_scoring.py [--processes N ...] [--bank N] [--rows N] [--features P]

KNN, NCI and ViM on made-up features in memory, all searched and scored as `eval` does; a process of ``torchrun`` runs
this script with ``--one``. Seconds are those of the first process, between two points at which all have come: of
scoring and searching, and of fitting, which every process does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
from measuring import parser, publish

from nci_plugin.benchmarks.benchmark import Benchmark, Features
from nci_plugin.config import load_detector
from nci_plugin.evaluation.evaluate import id_splits
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.features.processes import joined
from nci_plugin.features.split import CHUNK_ROWS, FeatureSplit
from nci_plugin.networks.head import LinearHead

CLASSES, DETECTORS = 100, ("knn", "nci", "vim")


def one(options: argparse.Namespace) -> dict[str, Any]:
    """What this process, one of however many, took and gave."""
    generator = torch.Generator().manual_seed(options.seed)

    def rows(count: int) -> Features:
        return Features(torch.randn(count, options.features, generator=generator).relu(), torch.arange(count) % CLASSES)

    head = LinearHead(torch.randn(CLASSES, options.features, generator=generator), torch.zeros(CLASSES))
    few = {name: rows(1000) for name in ("val", "ood_val")}
    sets = {name: {name: replace(rows(options.rows), labels=None)} for name in ("near", "far")}
    splits: dict[str, Any] = {"train": rows(options.bank), "test": rows(options.rows), **few, **sets}
    splits["ood_val"] = replace(splits["ood_val"], labels=None)
    benchmark = Benchmark.from_splits("shared_scoring", CLASSES, **splits)
    needed = {FitsOn.STATISTICS, FitsOn.BANK}
    seconds, scores = {"fit": 0.0, "search": 0.0, "score": 0.0}, hashlib.sha256()
    with joined() as processes:
        bank = extract(head, benchmark, needed, ExtractionOptions("cpu", progress=False, processes=processes))
        for name, split in bank.splits.items():  # shards of the usual size
            bank.splits[name] = FeatureSplit(list(split.chunks(CHUNK_ROWS // 4)))
        tested = [*id_splits(benchmark)["ood"], "near/near", "far/far"]
        for name in DETECTORS:
            processes.wait()
            answers = load_detector(name).answer(bank, benchmark, tested)
            seconds = {phase: value + answers.seconds[phase] for phase, value in seconds.items()}
            for split in tested:
                scores.update(answers.scores[split].tobytes())
        return {
            "first": processes.is_first,
            "fit": seconds.pop("fit"),
            "s": sum(seconds.values()),
            "scores": scores.hexdigest(),
        }


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], metavar="N", help="how many (1 2 4)")
    made.add_argument("--bank", type=int, default=20_000, metavar="N", help="training features (20000)")
    made.add_argument("--rows", type=int, default=6000, metavar="N", help="of each tested split (6000)")
    made.add_argument("--features", type=int, default=512, metavar="P", help="their width (512)")
    made.add_argument("--one", action="store_true", help="only be one process")
    options = made.parse_args(arguments)
    if options.one:
        found = one(options)
        if found.pop("first"):
            print(json.dumps(found))
        return
    same = [f"--{name}={getattr(options, name)}" for name in ("bank", "rows", "features", "seed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs: dict[int, dict[str, Any]] = {}
    for count in options.processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
        command = [sys.executable, *launcher, __file__, "--one", *same]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{count} processes failed:\n{done.stdout}{done.stderr}")
        runs[count] = json.loads(done.stdout.strip().splitlines()[-1])
    first = runs[options.processes[0]]
    report: dict[str, Any] = {f"processes_{count}_s": run["s"] for count, run in runs.items()}
    report.update({f"processes_{count}_fit_s": run["fit"] for count, run in runs.items()})
    for count, run in list(runs.items())[1:]:
        report[f"process_{options.processes[0]}_over_processes_{count}"] = first["s"] / run["s"]
    report["scores_identical"] = len({run["scores"] for run in runs.values()}) == 1
    publish(report, options.json)


if __name__ == "__main__":
    main()
