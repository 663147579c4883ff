"""Time of comparing detectors on stored scores: DeLong's test, and the bootstrap of every other metric.

    python scripts/bench/comparison.py [--detectors D] [--samples N] [--networks S] [--metrics NAME ...]

Half of the samples are ID, half are OOD in four sets, two near and two far. Scores are random numbers. ``cpu_seconds``
are of all threads, and tell something on a machine that does other work too.
"""

from __future__ import annotations

import time

import numpy as np
from measuring import parser, peak_mb, publish, timed

from nci_plugin.comparison.compare import compare
from nci_plugin.comparison.records import Choice
from nci_plugin.comparison.samples import Samples
from nci_plugin.metrics.columns import METRIC_COLUMNS

SETS = ("near/first", "near/second", "far/third", "far/fourth")


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    add = options.add_argument
    add("--detectors", type=int, default=40, metavar="D", help="detectors to compare, every pair (40)")
    add("--samples", type=int, default=80_000, metavar="N", help="test samples of all splits (80000)")
    add("--networks", type=int, default=1, metavar="S", help="networks, as of seeds (1)")
    add("--replicates", type=int, default=1000, metavar="B", help="bootstrap replicates (1000)")
    add(
        "--metrics", nargs="+", metavar="NAME", choices=METRIC_COLUMNS, help="those to compare by (all of the OOD sets)"
    )
    asked = options.parse_args(arguments)
    names = asked.metrics or [name for name, metric in METRIC_COLUMNS.items() if metric.samples == "ood"]
    samples = made_up(asked.detectors, asked.samples, asked.networks, asked.seed)
    report: dict[str, object] = {
        "shape": [asked.detectors, asked.samples, asked.networks, asked.replicates],
        "splits": samples.sizes,
    }
    for name in names:
        choice, started = Choice(name, replicates=asked.replicates, seed=asked.seed), time.process_time()
        seconds, compared = timed(lambda choice=choice: compare(samples, choice))
        report[f"{name}_seconds"], report[f"{name}_cpu_seconds"] = seconds, time.process_time() - started
        report["differences"] = len(compared.differences)
    publish({**report, "peak_MB": peak_mb()}, asked.json)


def made_up(detectors: int, total: int, networks: int, seed: int) -> Samples:
    """Random scores; those of one image are correlated over detectors and networks, as real ones are."""
    generator = np.random.default_rng(seed)
    sizes = {"id/test": total // 2, **{split: total // 2 // len(SETS) for split in SETS}}
    image = {split: generator.normal(1.0 if split == "id/test" else 0.0, 1, size) for split, size in sizes.items()}
    scores = {
        f"detector{place}": [
            {split: (image[split] + generator.normal(0, 1, size)).astype(np.float32) for split, size in sizes.items()}
            for _ in range(networks)
        ]
        for place in range(detectors)
    }
    labels = {split: generator.integers(0, 10, size) for split, size in sizes.items()}
    seeds = tuple(f"s{place}" for place in range(networks)) if networks > 1 else ("",)
    return Samples("made up", seeds, scores, [labels] * networks, [labels] * networks)


if __name__ == "__main__":
    main()
