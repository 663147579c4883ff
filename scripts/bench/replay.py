"""OpenOOD's own methods from one forward pass, against its evaluator on the same images: equality and time.

    python scripts/bench/replay.py [--width N] [--most N] [--methods NAME ...]

In an environment in which OpenOOD imports (README, "Inside OpenOOD"). Runs on the CPU, on the images of `digits` and a
network trained on them for this: first a bare pass over all lists, then one run of every replayable method and every
detector of this package, then OpenOOD's Evaluator, method by method. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nci_plugin.adapters.openood import host, methods
from nci_plugin.api import resolve_detectors
from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation import Evaluation, evaluate_bank
from nci_plugin.extraction import ExtractionOptions, extract
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training import Recipe, train

BATCH_SIZE = 200
LIGHT = 0.05
"""Share of the bare pass under which a method's own scoring counts as light."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage; 64 is OpenOOD's (16)")
    parser.add_argument("--most", type=int, help="images of a split at most (all)")
    parser.add_argument("--methods", nargs="+", default=[name.removeprefix(methods.PREFIX) for name in methods.names()])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_digits(Path(directory))
        benchmark = load_benchmark("digits").with_data_root(Path(directory))
        if options.most is not None:
            shorten_lists(benchmark, options.most)
        network = trained(benchmark, options.width)
        print(json.dumps(measure(network, benchmark, options.methods)))


def shorten_lists(benchmark: Benchmark, most: int) -> None:
    """Leave ``most`` lines of each image list, spread over it."""
    for source in benchmark.splits.values():
        assert isinstance(source, ImageList)
        lines = source.path.read_text().splitlines(keepends=True)
        step = max(1, len(lines) / most)
        source.path.write_text("".join(lines[int(index * step)] for index in range(min(most, len(lines)))))


def trained(benchmark: Benchmark, width: int) -> nn.Module:
    files = open_splits(benchmark)[TRAIN]
    items = [files.item(index) for index in range(len(files))]
    images, labels = (torch.stack([item[part] for item in items]) for part in (0, 1))
    network, _ = train(
        lambda: ResNet18_32x32(benchmark.num_classes, width), images, labels, Recipe(), 0, torch.device("cpu")
    )
    return network.eval()


def measure(network: nn.Module, benchmark: Benchmark, names: list[str]) -> dict[str, Any]:
    bare = bare_pass(network, benchmark)
    everything = [*(f"{methods.PREFIX}{name}" for name in names), *registry.names()]
    whole, evaluation = one_run(network, benchmark, everything)
    seconds = {result.detector: sum(result.seconds.values()) for result in evaluation.results}
    light = [name for name in names if seconds.get(f"{methods.PREFIX}{name}", np.inf) < LIGHT * bare]
    ours, _ = one_run(network, benchmark, [f"{methods.PREFIX}{name}" for name in light])

    theirs: dict[str, float] = {}
    differences: dict[str, float] = {}
    failures = {name: reason for name, reason in evaluation.failures.items()}
    for name in names:
        started = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                answers = host.evaluate(network, benchmark, name, batch_size=BATCH_SIZE)
        except Exception as error:  # OpenOOD's own failures, named in the report
            failures[f"OpenOOD's {name}"] = f"{type(error).__name__}: {error}"
            continue
        theirs[name] = time.perf_counter() - started
        if f"{methods.PREFIX}{name}" in evaluation.scores:
            differences[name] = difference(evaluation.scores[f"{methods.PREFIX}{name}"], answers.scores)
    compared = [name for name in light if name in theirs]
    return {
        "images": sum(map(len, open_splits(benchmark).values())),
        "bare_pass_s": round(bare, 2),
        "one_run_s": round(whole, 2),
        "scoring_s": {name: round(value, 2) for name, value in seconds.items()},
        "one_run_over_pass_and_scoring": round(whole / (bare + sum(seconds.values())), 3),
        "not_light": sorted(set(names) - set(light)),
        "light_methods": compared,
        "light_run_s": round(ours, 2),
        "openood_s": {name: round(value, 2) for name, value in theirs.items()},
        "light_run_over_openood": round(ours / sum(theirs[name] for name in compared), 4),
        "largest_difference": max(differences.values()),
        "equal_methods": sum(value == 0 for value in differences.values()),
        "failures": failures,
    }


def bare_pass(network: nn.Module, benchmark: Benchmark) -> float:
    """Seconds of decoding every image of every list and passing it through the network, and nothing else."""
    splits = open_splits(benchmark)
    started = time.perf_counter()
    with torch.no_grad():
        for split in splits.values():
            for images, _ in torch.utils.data.DataLoader(split, BATCH_SIZE):
                network(images)
    return time.perf_counter() - started


def one_run(network: nn.Module, benchmark: Benchmark, detectors: list[str]) -> tuple[float, Evaluation]:
    setups = resolve_detectors(detectors)
    started = time.perf_counter()
    bank = extract(network, benchmark, options=ExtractionOptions("cpu", BATCH_SIZE))
    evaluation = evaluate_bank(bank, benchmark, setups)
    return time.perf_counter() - started, evaluation


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[split].astype(np.float64) - scores).max()) for split, scores in theirs.items())


if __name__ == "__main__":
    main()
