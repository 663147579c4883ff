"""``nci-ood validate``: check a config, and the images it names, before anything long starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "validate",
        help="check benchmark and detector configs",
        description="Check benchmarks and detectors, by name or YAML file; with --data-root also every list and image.",
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="names or YAML files")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="check that all lists and images are there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.config import describe_config, load_benchmark
    from nci_plugin.inputs import check_data, find_roots

    for name in options.configs:
        kind, summary = describe_config(name)
        print(f"{name}: valid {kind}: {summary}")
        if kind == "benchmark" and options.data_root is not None:
            splits = check_data(load_benchmark(name), find_roots(name, options.data_root))
            print(f"{name}: all images are there: " + ", ".join(f"{split} {len(s)}" for split, s in splits.items()))
    return 0
