"""Memory and time of every detector on a large synthetic bank, one process each.

    python scripts/bench/scale.py --bank DIR [--json PATH] [--classes K] [--features P] [--train N] [--test N]
                                  [--memory GB] [--detectors NAME ...] [--fresh] [--together]

The bank is made once and stored as `extract` stores features. Each detector is fitted, searched and scored on it as
``eval`` does, in a process of its own, whose peak of resident and of private memory (RssAnon) is read. What is finished
is written to the JSON file, and the same command goes on from there. ``--memory`` is what is said to be free, so that
detectors which need more are left out as they would be on a machine of that size. ``--together`` measures all of them
one after the other in a single process instead, as one ``eval`` goes; the JSON file keeps both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import PrivatePeak, parser, peak_mb, private_mb, publish, timed

from nci_plugin import api
from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.image_list import OOD_LABEL
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.evaluation.evaluation import Evaluation
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import Chunk
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.features.store import SplitStore
from nci_plugin.files import write_atomically
from nci_plugin.networks.head import LinearHead

SHARD_ROWS = 4096
SHARES = {TEST: 0.6, "near/mixed": 0.2, "far/noise": 0.2}
"""The tested rows by split."""

VALIDATION_ROWS = {VALIDATION: 5000, OOD_VALIDATION: 1000}
"""About as many as OpenOOD's validation sets of ImageNet-1k."""

SLOW = (
    "pytorch_ood:vim",
    "mds_radial",
    "pytorch_ood:nnguide",
    "pytorch_ood:knn",
    "knn",
    "knn_l1",
)
"""They go last, the slowest at the end: all training rows for every row."""


def rows_of(options: argparse.Namespace) -> dict[str, int]:
    tested = {name: round(share * options.test) for name, share in SHARES.items()}
    return {TRAIN: options.train, **VALIDATION_ROWS, **tested}


def make(options: argparse.Namespace) -> None:
    """Rectified features about class means, near-OOD about means of two classes, far-OOD about none."""
    generator = torch.Generator().manual_seed(options.seed)
    centres = torch.randn(options.classes, options.features, generator=generator)
    head = LinearHead(centres / options.features**0.5, torch.zeros(options.classes))
    sums = {"": ClassStatistics(options.classes, options.features), "unit": ClassStatistics(*centres.shape)}
    for split, rows in rows_of(options).items():
        store = store_of(options, split)
        for number, start in enumerate(range(0, rows, SHARD_ROWS)):
            count = min(SHARD_ROWS, rows - start)
            labels = torch.arange(start, start + count) % options.classes
            noise = torch.randn(count, options.features, generator=generator)
            other = torch.randint(options.classes, (count,), generator=generator)
            shift = {"id": centres[labels], "far": torch.zeros(1)}.get(split.split("/")[0])
            shift = (centres[labels] + centres[other]) / 2 if shift is None else shift
            features = noise.add_(shift, alpha=0.3).relu_()
            known = labels if split.startswith("id/") else torch.full_like(labels, OOD_LABEL)
            store.add_shard(number, Chunk(features, head.logits(features), known))
            if split == TRAIN:
                sums[""].update(features, labels)
                sums["unit"].update(unit_rows(features), labels)
        store.finish(rows, {"split": split})
    torch.save({"weight": head.weight, "bias": head.bias}, options.bank / "head.pt")
    for of, statistics in sums.items():
        store_of(options, TRAIN).save_statistics(statistics, of)


def store_of(options: argparse.Namespace, split: str) -> SplitStore:
    return SplitStore(options.bank / "bank" / split.replace("/", "."))


def load(options: argparse.Namespace) -> FeatureBank:
    head = LinearHead(**torch.load(options.bank / "head.pt", weights_only=True))
    splits = {split: store_of(options, split).load() for split in rows_of(options)}
    statistics = {of: store_of(options, TRAIN).load_statistics(of) for of in ("", "unit")}
    found = {split: rows for split, rows in splits.items() if rows is not None}
    if {split: len(rows) for split, rows in found.items()} != rows_of(options):
        sys.exit(f"the bank in {options.bank} is of other sizes; remove it, or choose another --bank")
    return FeatureBank(head, found, statistics[""], unit_statistics=statistics["unit"])


def here(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """What detectors take on the bank one after the other, in this process."""
    if options.memory is not None:
        pretend(options.memory)
    benchmark = Benchmark("scale", options.classes, {split: options.bank for split in rows_of(options)})
    setups, bank, before = api.resolve_detectors(names), load(options), private_mb()
    began = time.process_time()

    def finished(setup: Contestant, part: Evaluation) -> None:
        print(f"{time.process_time() - began:.0f} s of CPU: {setup.name} is finished", file=sys.stderr, flush=True)

    with PrivatePeak() as peak:
        wall, evaluation = timed(lambda: evaluate_bank(bank, benchmark, setups, finished=finished))
    return {
        "wall_s": wall,
        "cpu_s": time.process_time() - began,
        "peak_MB": peak_mb(),
        "peak_private_MB": peak.most_mb,
        "private_before_MB": before,
        "threads": torch.get_num_threads(),
        "failures": dict(evaluation.failures),
        "seconds": {result.detector: dict(result.seconds) for result in evaluation.results},
    }


def row_of(name: str, taken: Mapping[str, Any]) -> dict[str, Any]:
    """What was taken by one detector in a process of its own."""
    row = dict(taken, failure=taken["failures"].get(name, ""), seconds=taken["seconds"].get(name, {}))
    return {key: row[key] for key in row if key not in ("failures", "threads")}


def pretend(gigabytes: float) -> None:
    """Let only so much memory be free, less what this process has."""
    from nci_plugin import machine

    def free() -> int:
        return int(1e9 * gigabytes - 2**20 * private_mb())

    for module in list(sys.modules.values()):
        if getattr(module, "free_memory", None) is machine.free_memory and module is not machine:
            module.free_memory = free  # type: ignore[attr-defined]
    machine.free_memory = free


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--bank", type=Path, required=True, metavar="DIR", help="where the bank is, or is to be made")
    made.add_argument("--classes", type=int, default=1000, metavar="K", help="classes (1000)")
    made.add_argument("--features", type=int, default=2048, metavar="P", help="their width (2048)")
    made.add_argument("--train", type=int, default=100_000, metavar="N", help="training rows (100000)")
    made.add_argument("--test", type=int, default=50_000, metavar="N", help="tested rows, ID and OOD (50000)")
    made.add_argument("--memory", type=float, metavar="GB", help="memory that is said to be free (what is)")
    made.add_argument("--detectors", nargs="+", default=["all"], metavar="NAME", help="detectors (all)")
    made.add_argument("--without", nargs="+", default=[], metavar="NAME", help="detectors to leave out")
    made.add_argument("--fresh", action="store_true", help="measure again what the JSON file has")
    made.add_argument("--together", action="store_true", help="all detectors in a single process")
    made.add_argument("--here", nargs="+", metavar="NAME", help="only print what these take in this process")
    options = made.parse_args(arguments)
    if options.here is not None:
        print(json.dumps(here(options.here, options)))
        return
    if not (options.bank / "head.pt").is_file():
        make(options)
    sizes = {name: getattr(options, name) for name in ("classes", "features", "train", "test", "memory")}
    found = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    rows = {} if options.fresh or found.get("sizes") != sizes else dict(found["detectors"])
    if options.memory is not None:
        pretend(options.memory)
    setups = api.resolve_detectors(options.detectors, options.without)
    setups, left_out = api.affordable(setups, options.detectors, options.classes)
    rows |= {name: {"failure": f"left out of 'all': {reason}"} for name, reason in left_out.items()}
    ordered = sorted((setup.name for setup in setups), key=lambda each: SLOW.index(each) if each in SLOW else -1)
    together = found.get("together") if found.get("sizes") == sizes else None
    if options.together:
        together = in_a_process(ordered, options)
        ordered = []
    for name in ordered:
        if name not in rows:
            row = rows[name] = row_of(name, in_a_process([name], options))
            told = row["failure"] or f"{row['wall_s']:.1f} s, {row['peak_MB']:.0f} MB"
            print(f"{name}: {told}", file=sys.stderr, flush=True)
            if options.json is not None:
                write_atomically(options.json, json.dumps(report(rows, sizes, together)))
    publish(report(rows, sizes, together), options.json)


def in_a_process(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    same = [f"--{each}={getattr(options, each)}" for each in ("bank", "classes", "features", "train", "test", "seed")]
    same += [] if options.memory is None else [f"--memory={options.memory}"]
    command = [sys.executable, __file__, *same, "--here", *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        failures = dict.fromkeys(names, f"the process ended with {done.returncode}")
        return {"failures": failures, "seconds": {}}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(rows: Mapping[str, Any], sizes: Mapping[str, Any], together: Mapping[str, Any] | None) -> dict[str, Any]:
    scored = [row for row in rows.values() if not row["failure"]]
    return {
        "scored": len(scored),
        "left_out": len(rows) - len(scored),
        "total_s": sum(row["wall_s"] for row in scored),
        "total_cpu_s": sum(row["cpu_s"] for row in scored),
        "largest_peak_MB": max((row["peak_MB"] for row in scored), default=0.0),
        "largest_private_peak_MB": max((row["peak_private_MB"] for row in scored), default=0.0),
        "sizes": sizes,
        "validation": VALIDATION_ROWS[VALIDATION],
        "threads": torch.get_num_threads(),
        "detectors": rows,
        "together": together,
    }


if __name__ == "__main__":
    main()
