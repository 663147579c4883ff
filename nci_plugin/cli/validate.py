"""``nci-ood validate``: check a config, and the images it names, before anything long starts."""

from __future__ import annotations

import torch

from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.cli.tool_commands import Validate
from nci_plugin.config import describe_config, load_benchmark
from nci_plugin.evaluation.thin import counted, sentence
from nci_plugin.inputs import check_data


def run(options: Validate) -> int:
    for name in options.configs:
        kind, summary = describe_config(name)
        print(f"{name}: valid {kind}: {summary}")
        if kind == "benchmark" and options.data_root is not None:
            benchmark = load_benchmark(name)
            splits = check_data(benchmark, find_roots(name, options.data_root))
            print(f"{name}: all images are there: " + ", ".join(f"{split} {len(s)}" for split, s in splits.items()))
            labels = getattr(splits.get(TRAIN), "labels", None)
            if labels is not None and (thin := sentence(counted(torch.as_tensor(labels), benchmark.num_classes))):
                print(f"{name}: training statistics: {thin}")
    return 0
