"""``nci-ood list``: benchmarks and detectors."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "list", help="list benchmarks and detectors, with their papers"
    )
    parser.add_argument("--openood", action="store_true", help="list OpenOOD's own methods, and how each is used")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.adapters import pytorch_ood
    from nci_plugin.adapters.openood import methods
    from nci_plugin.config import benchmark_names, detector_names, load_benchmark, load_detector

    if options.openood:
        for name, use in methods.describe().items():
            print(f"{name:22} {use}")
        return 0
    print("benchmarks")
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        groups = [f"{group}: {', '.join(benchmark.data_sets(group)) or 'none'}" for group in ("csid", "near", "far")]
        print(f"  {name:13} {benchmark.num_classes} classes; {'; '.join(groups)}")
    print("\ndetectors")
    for name in detector_names():
        detector = load_detector(name).detector
        print(f"  {name:30} fits on {detector.fits_on.value:15}  {detector.paper}")
    print("\npytorch-ood's detectors that cannot be scored from stored features")
    for name, reason in pytorch_ood.EXCLUDED.items():
        print(f"  {name:30} {reason}")
    return 0
