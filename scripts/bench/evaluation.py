"""Time of a whole evaluation against the extraction alone: what scoring costs on top of the one forward pass.

    python scripts/bench/evaluation.py [--workload NAME] [--detectors NAME ...]
    python scripts/bench/evaluation.py BENCHMARK.yml FILE.py:FACTORY CHECKPOINT [--data-root DIR] [--detectors NAME ...]

The first form makes the images and the network (workload.py), the second takes yours. Both sides
run in one process, extraction first, nothing stored and nothing reused.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from measuring import parser, publish, timed
from torch import nn
from workload import add_options, opened

from nci_plugin.api import evaluate, resolve_detectors
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation.evaluate import training_needed
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.networks.checkpoints import load_checkpoint
from nci_plugin.networks.factory import build_network

DETECTORS = ["nci", "pscore", "feature_norm", "nci_l2", "knn", "knn_l1", "neco", "msp", "mls", "ebo"]


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("own", nargs="*", metavar="BENCHMARK FACTORY CHECKPOINT", help="yours, in place of --workload")
    add_options(made)
    made.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="of your benchmark (data)")
    made.add_argument("--detectors", nargs="+", default=DETECTORS, metavar="NAME")
    options = made.parse_args(arguments)
    if len(options.own) not in (0, 3):
        made.error("give BENCHMARK, FACTORY and CHECKPOINT, or none of them")
    if not options.own:
        with opened(options) as work:
            publish(measure(work.network, work.benchmark, work.directory, options), options.json)
        return
    name, factory, checkpoint = options.own
    benchmark = load_benchmark(name).with_data_root(options.data_root)
    network = build_network(factory, benchmark.num_classes, {})
    load_checkpoint(network, Path(checkpoint))
    publish(measure(network, benchmark, options.data_root, options), options.json)


def measure(network: nn.Module, benchmark: Benchmark, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    setups = resolve_detectors(options.detectors)
    loading = {name: getattr(options, name) for name in ("device", "batch_size", "workers")}
    needed = training_needed(setups)
    extraction, bank = timed(lambda: extract(network, benchmark, needed, ExtractionOptions(**loading)))
    images = sum(map(len, bank.splits.values()))
    del bank
    whole, evaluation = timed(lambda: evaluate(network, benchmark, setups, data_root=root, **loading))
    seconds = {result.detector: sum(result.seconds.values()) for result in evaluation.results}
    return {
        "sizes": {"images": images},
        "extraction_s": extraction,
        "evaluation_s": whole,
        "evaluation_over_extraction": whole / extraction,
        "detectors_s": seconds,
        "failures": evaluation.failures,
    }


if __name__ == "__main__":
    main()
