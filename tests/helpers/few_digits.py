"""A small benchmark of real images for OpenOOD's evaluator, and networks that classify it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions

COUNTS = {TRAIN: 120, VALIDATION: 30, TEST: 60, OOD_VALIDATION: 30, "csid": 30, "near": 40, "far": 30}


def few_digits(directory: Path, counts: Mapping[str, int] = COUNTS) -> Benchmark:
    """The digits benchmark with at most so many images a split, spread over its lists, under ``directory``."""
    write_digits(directory)
    benchmark = load_benchmark("digits").with_data_root(directory)
    splits = {}
    for name, source in benchmark.splits.items():
        assert isinstance(source, ImageList)
        lines = source.path.read_text().splitlines(keepends=True)
        count = min(len(lines), counts.get(name, counts.get(name.split("/")[0], 0)))
        chosen = [lines[index * len(lines) // count] for index in range(count)]
        splits[name] = replace(source, imglist_path=f"few/{source.imglist_path}")
        splits[name].path.parent.mkdir(parents=True, exist_ok=True)
        splits[name].path.write_text("".join(chosen))
    return replace(benchmark, name="few_digits", splits=splits)


def fit_head(network: nn.Module, layer: nn.Linear, benchmark: Benchmark) -> nn.Module:
    """Give a network with random weights a head that classifies the training images: logistic regression."""
    network.eval()
    splits = open_splits(benchmark)
    features = extract(network, benchmark, splits=splits, options=ExtractionOptions("cpu")).splits[TRAIN]
    scaler = StandardScaler().fit(features.features)
    model = LogisticRegression(C=0.1, max_iter=200).fit(scaler.transform(features.features), features.labels)
    weight = torch.from_numpy(model.coef_ / scaler.scale_)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.from_numpy(model.intercept_) - weight @ torch.from_numpy(scaler.mean_))
    return network
