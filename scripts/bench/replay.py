"""OpenOOD's own methods from one forward pass, against its evaluator on the same images: equality and time.

    python scripts/bench/replay.py [--width N] [--most N] [--methods NAME ...]

In an environment in which OpenOOD imports (docs/howto/openood.md). Runs on the CPU, on the images of `digits` and a
network trained on them for this: first a bare pass over all lists, then one run of every replayable method and every
detector of this package, then OpenOOD's Evaluator, method by method. Prints one JSON line.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import parser, publish, timed
from torch import nn
from workload import shorten

from nci_plugin.adapters.openood import methods
from nci_plugin.api import resolve_detectors
from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation.evaluate import Evaluation, evaluate_bank, training_needed
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training.train import Recipe, train

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
BATCH_SIZE = 200
LIGHT = 0.05
"""Share of the bare pass under which a method's own scoring counts as light."""


def main(arguments: list[str] | None = None) -> None:
    every = [name.removeprefix(methods.PREFIX) for name in methods.names()]
    made = parser(__doc__)
    made.add_argument(
        "--width", type=int, default=16, metavar="N", help="channels of the first stage, 64 is OpenOOD's (16)"
    )
    made.add_argument("--most", type=int, metavar="N", help="images of a split at most (all)")
    made.add_argument(
        "--methods", nargs="+", default=every, metavar="NAME", help="OpenOOD's names (all that can be replayed)"
    )
    options = made.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        write_digits(Path(directory))
        benchmark = load_benchmark("digits").with_data_root(Path(directory))
        for name, source in benchmark.splits.items():
            assert isinstance(source, ImageList)
            shorten({name: source}, options.most)
        network = trained(benchmark, options.width, options.seed)
        publish(measure(network, benchmark, options.methods), options.json)


def trained(benchmark: Benchmark, width: int, seed: int) -> nn.Module:
    files = open_splits(benchmark)[TRAIN]
    items = [files.item(index) for index in range(len(files))]
    images, labels = (torch.stack([item[part] for item in items]) for part in (0, 1))
    network, _ = train(
        lambda: ResNet18_32x32(benchmark.num_classes, width), images, labels, Recipe(), seed, torch.device("cpu")
    )
    return network.eval()


def measure(network: nn.Module, benchmark: Benchmark, names: list[str]) -> dict[str, Any]:
    from openood_evaluator import evaluate

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
                answers = evaluate(network, benchmark, name, batch_size=BATCH_SIZE)
        except Exception as error:  # OpenOOD's own failures, named in the report
            failures[f"OpenOOD's {name}"] = f"{type(error).__name__}: {error}"
            continue
        theirs[name] = time.perf_counter() - started
        if f"{methods.PREFIX}{name}" in evaluation.scores:
            differences[name] = difference(evaluation.scores[f"{methods.PREFIX}{name}"], answers.scores)
    compared = [name for name in light if name in theirs]
    if not differences:
        raise SystemExit(f"replay: no method could be compared: {failures}")
    light_theirs = sum(theirs[name] for name in compared)
    return {
        "sizes": {"images": sum(map(len, open_splits(benchmark).values()))},
        "bare_pass_s": bare,
        "one_run_s": whole,
        "scoring_s": seconds,
        "one_run_over_pass_and_scoring": whole / (bare + sum(seconds.values())),
        "not_light": sorted(set(names) - set(light)),
        "light_methods": compared,
        "light_run_s": ours,
        "openood_s": theirs,
        "openood_all_methods_s": sum(theirs.values()),
        "openood_another_method_s": statistics.median(theirs.values()),
        **({"light_run_over_openood": ours / light_theirs} if compared else {}),
        "openood_all_methods_over_one_run": sum(theirs.values()) / whole,
        "methods_compared": len(differences),
        "largest_difference": max(differences.values()),
        "equal_methods": sum(value == 0 for value in differences.values()),
        "failures": failures,
    }


def bare_pass(network: nn.Module, benchmark: Benchmark) -> float:
    """Seconds of decoding every image of every list and passing it through the network, and nothing else."""
    splits = open_splits(benchmark)

    def work() -> None:
        for split in splits.values():
            for images, _ in torch.utils.data.DataLoader(split, BATCH_SIZE):
                network(images)

    with torch.no_grad():
        return timed(work)[0]


def one_run(network: nn.Module, benchmark: Benchmark, detectors: list[str]) -> tuple[float, Evaluation]:
    setups = resolve_detectors(detectors)

    def work() -> Evaluation:
        bank = extract(network, benchmark, training_needed(setups), ExtractionOptions("cpu", BATCH_SIZE))
        return evaluate_bank(bank, benchmark, setups)

    return timed(work)


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[split].astype(np.float64) - scores).max()) for split, scores in theirs.items())


if __name__ == "__main__":
    main()
