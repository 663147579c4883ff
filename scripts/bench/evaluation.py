"""Time of a whole evaluation against the extraction alone: what scoring costs on top of the one forward pass.

    python scripts/bench/evaluation.py BENCHMARK.yml FILE.py:FACTORY CHECKPOINT [--data-root DIR] [--detectors NAME ...]

Both run in one process, extraction first, nothing stored and nothing reused.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from nci_plugin.api import evaluate, resolve_detectors
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation import training_needed
from nci_plugin.extraction import extract
from nci_plugin.networks.checkpoints import load_checkpoint
from nci_plugin.networks.factory import build_network

DETECTORS = ["nci", "pscore", "feature_norm", "nci_l2", "knn", "knn_l1", "neco", "msp", "mls", "ebo"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("factory")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--detectors", nargs="+", default=DETECTORS)
    options = parser.parse_args()
    benchmark = load_benchmark(options.benchmark).with_data_root(options.data_root)
    network = build_network(options.factory, benchmark.num_classes, {})
    load_checkpoint(network, options.checkpoint)
    setups = resolve_detectors(options.detectors)

    started = time.perf_counter()
    bank = extract(network, benchmark, training_needed(setups))
    extraction = time.perf_counter() - started
    images = sum(map(len, bank.splits.values()))
    del bank
    started = time.perf_counter()
    evaluation = evaluate(network, benchmark, setups, data_root=options.data_root)
    whole = time.perf_counter() - started
    seconds = {result.detector: sum(result.seconds.values()) for result in evaluation.results}
    report = {
        "images": images,
        "extraction_s": round(extraction, 2),
        "evaluation_s": round(whole, 2),
        "evaluation_over_extraction": round(whole / extraction, 3),
        "detectors_s": {name: round(value, 2) for name, value in seconds.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
