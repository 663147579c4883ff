"""OpenOOD's replayed methods on a device against the same on the CPU: the largest difference of each one's scores.

    python scripts/bench/device_replay.py --device cuda [--rows N] [--features P] [--classes K] [--methods NAME ...]

In an environment in which OpenOOD imports. Made-up features of classes with Gaussian noise; a difference is relative to
the larger of 1 and the score. A method that fails on either is named with its reason; ViM and Residual take 512 of the
features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from measuring import keep, parser, publish

from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.benchmark import Benchmark, Features
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions, resolve_device
from nci_plugin.networks.head import LinearHead

TOLERANCE = 1e-3
"""Scores nearer than this agree: most of these methods compute in float32, and a device adds in another order."""


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--device", default="cuda", help="(cuda)")
    for name, default in (("rows", 1000), ("features", 600), ("classes", 10)):
        made.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"({default})")
    every = [name.removeprefix(methods.PREFIX) for name in methods.names()]
    made.add_argument("--methods", nargs="+", default=every, metavar="NAME", help="(all that are replayed)")
    asked = made.parse_args(arguments)
    device, generator = str(resolve_device(asked.device)), torch.Generator().manual_seed(asked.seed)
    means = torch.randn(asked.classes, asked.features, generator=generator)
    head = LinearHead(means / asked.features**0.5, torch.zeros(asked.classes))

    def rows(spread: float) -> Features:
        labels = torch.arange(asked.rows) % asked.classes
        noise = spread * torch.randn(asked.rows, asked.features, generator=generator)
        return Features((means[labels] + noise).relu(), labels)

    ood = {name: replace(rows(spread), labels=None) for name, spread in (("val", 2.0), ("near", 2.0), ("far", 3.0))}
    benchmark = Benchmark.from_splits(
        *("device_replay", asked.classes),
        train=rows(1.0),
        val=rows(1.0),
        test=rows(1.0),
        ood_val=ood["val"],
        near={"near": ood["near"]},
        far={"far": ood["far"]},
    )
    bank = extract(head, benchmark, {FitsOn.BANK}, ExtractionOptions("cpu", progress=False))
    differences: dict[str, float] = {}
    failures: dict[str, str] = {}

    def report() -> dict[str, Any]:
        numbers: dict[str, Any] = {
            "methods_compared": len(differences),
            "methods_that_agree": sum(value <= TOLERANCE for value in differences.values()),
            "largest_difference": max(differences.values(), default=None),
        }
        return {"device": device, **numbers, "differences": differences, "failures": failures}

    for name in asked.methods:
        setups = methods.load(f"{methods.PREFIX}{name}")
        both = [
            evaluate_bank(replace(bank, provenance={**bank.provenance, "device": on}), benchmark, setups)
            for on in ("cpu", device)
        ]
        failed = [reason for evaluation in both for reason in evaluation.failures.values()]
        if failed:
            failures[name] = failed[0]
        else:
            here, there = (next(iter(evaluation.scores.values())) for evaluation in both)
            differences[name] = max(
                float((np.abs(here[split] - there[split]) / np.maximum(1, np.abs(here[split]))).max()) for split in here
            )
        keep(report(), asked.json)
    publish(report(), asked.json)


if __name__ == "__main__":
    main()
