"""What one more data set, detector and value of a hyper-parameter cost, once a benchmark has been run.

    python scripts/bench/growth.py [--workload NAME] [--detectors NAME ...]

In each round, with features stored in an empty directory: a first run without the last OOD set, the same run again, the
run with that set, and the run with every detector of the package. The images that each of them passed through the
network are counted. A detector costs its own fit, search and scores; a value its share of the search.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import counted, parser, publish, timed
from workload import Work, add_options, opened

from nci_plugin.api import resolve_detectors
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation.evaluate import Evaluation, evaluate_bank, training_needed
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions

FIRST = ("nci", "knn", "msp")


def steps(work: Work, options: argparse.Namespace, store: Path) -> tuple[dict[str, float], dict[str, int], Evaluation]:
    """Seconds and images of each run, and the evaluation of the last."""
    whole = work.benchmark
    splits = dict(whole.splits)
    splits.popitem()  # the last far-OOD set, or the last near-OOD one
    smaller = Benchmark(whole.name, whole.num_classes, splits, whole.preprocessing)
    runs: dict[str, tuple[Benchmark, Sequence[str]]] = {
        "first_run": (smaller, FIRST),
        "run_again": (smaller, FIRST),
        "run_with_another_data_set": (whole, FIRST),
        "run_with_all_detectors": (whole, options.detectors),
    }
    seconds, images = {}, {}
    for name, (benchmark, detectors) in runs.items():
        with counted(work.network) as passes:
            seconds[name], evaluation = timed(lambda each=(benchmark, detectors): run(work, *each, options, store))
        images[name] = sum(passes)
    return seconds, images, evaluation


def run(work: Work, benchmark: Benchmark, names: Sequence[str], options: argparse.Namespace, store: Path) -> Evaluation:
    setups = resolve_detectors(list(names))
    loading = ExtractionOptions(options.device, options.batch_size, options.workers, store=store, progress=False)
    return evaluate_bank(extract(work.network, benchmark, training_needed(setups), loading), benchmark, setups)


def values(setup: Any) -> int:
    """How many combinations a search tries."""
    count = 1
    for each in setup.sweep.values():
        count *= len(each)
    return count


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made)
    made.add_argument(
        "--detectors", nargs="+", default=registry.names(), metavar="NAME", help="detectors (all of ours)"
    )
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, each with an empty store (3)")
    options = made.parse_args(arguments)
    rounds = []
    with opened(options) as work:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as store:
                rounds.append(steps(work, options, Path(store)))
    _, images, evaluation = rounds[-1]
    seconds = {name: statistics.median(each[0][name] for each in rounds) for name in images}
    spent = {result.detector: result.seconds for result in evaluation.results}
    detectors = {name: sum(each.values()) for name, each in spent.items()}
    per_value = {
        setup.name: spent[setup.name]["search"] / values(setup)
        for setup in resolve_detectors(options.detectors)
        if setup.name in spent and values(setup) > 1
    }
    publish(
        {
            **{f"{name}_s": value for name, value in seconds.items()},
            "another_data_set_over_first_run": seconds["run_with_another_data_set"] / seconds["first_run"],
            "another_detector_s": statistics.median(detectors.values()),
            "another_detector_over_first_run": statistics.median(detectors.values()) / seconds["first_run"],
            "another_value_s": statistics.median(per_value.values()),
            "another_value_over_first_run": statistics.median(per_value.values()) / seconds["first_run"],
            "images_passed": images,
            "detector_s": detectors,
            "value_s": per_value,
            "failures": evaluation.failures,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
