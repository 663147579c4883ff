"""``nci-ood validate``: check a config, and the images it names, before anything long starts."""

from __future__ import annotations

from nci_plugin.cli.commands import Validate
from nci_plugin.config import describe_config, load_benchmark
from nci_plugin.inputs import check_data, find_roots


def run(options: Validate) -> int:
    for name in options.configs:
        kind, summary = describe_config(name)
        print(f"{name}: valid {kind}: {summary}")
        if kind == "benchmark" and options.data_root is not None:
            splits = check_data(load_benchmark(name), find_roots(name, options.data_root))
            print(f"{name}: all images are there: " + ", ".join(f"{split} {len(s)}" for split, s in splits.items()))
    return 0
