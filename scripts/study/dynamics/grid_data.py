"""The data sets of the grid: digits, and where NCI_PLUGIN_DATA has the images, a small part of CIFAR-10.

That directory holds ``load_pack.py``, which reads ``cifar10_train.npz``, ``cifar10_test.npz``, ``cifar100_test.npz``
and ``mnist_test.npz`` into arrays of images (n, H, W) or (n, H, W, C) and labels (n,).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.config import load_benchmark

DATA = Path(os.environ.get("NCI_PLUGIN_DATA", "there is no such directory"))
CIFAR10_SUBSET = "cifar10_subset"
PER_CLASS = {"train": 100, "val": 20, "test": 100}
OOD_VALIDATION, OTHERS = 200, 1000
"""Images of each OOD set; those of OOD validation are in no test set."""

Item = Any
"""An image with its label, or an OOD image alone."""


def data_sets() -> list[str]:
    """The data sets that are there."""
    return ["digits", *([CIFAR10_SUBSET] if (DATA / "load_pack.py").is_file() else [])]


def open_benchmark(name: str, pixels: int, data_root: Path) -> Benchmark:
    """A data set whose images are scaled to ``pixels`` x ``pixels``."""
    if name == CIFAR10_SUBSET:
        return _cifar10_subset(pixels)
    benchmark = load_benchmark(name).with_data_root(data_root)
    splits = {}
    for split, source in benchmark.splits.items():
        assert isinstance(source, ImageList)
        splits[split] = replace(source, preprocessing=_scaled(source.preprocessing, pixels))
    return replace(benchmark, splits=splits)


def _cifar10_subset(pixels: int) -> Benchmark:
    """`PER_CLASS` of CIFAR-10; near-OOD and OOD validation of CIFAR-100, far-OOD of MNIST; drawn with seed 0."""
    train, test = _labelled("cifar10_train.npz"), _labelled("cifar10_test.npz")
    near, far = (_labelled(f"{name}_test.npz") for name in ("cifar100", "mnist"))
    others = _drawn(near, OOD_VALIDATION + OTHERS)
    held_out = _of_each_class(test, PER_CLASS["val"] + PER_CLASS["test"])
    return Benchmark.from_splits(
        CIFAR10_SUBSET,
        10,
        train=[item for group in _of_each_class(train, PER_CLASS["train"]).values() for item in group],
        val=[item for group in held_out.values() for item in group[: PER_CLASS["val"]]],
        test=[item for group in held_out.values() for item in group[PER_CLASS["val"] :]],
        ood_val=others[:OOD_VALIDATION],
        near={"cifar100": others[OOD_VALIDATION:]},
        far={"mnist": _drawn(far, OTHERS)},
        preprocessing=Preprocessing(pixels, pixels, ((0.5,) * 3, (0.5,) * 3)),
    )


def _scaled(preprocessing: Preprocessing, pixels: int) -> Preprocessing:
    return replace(preprocessing, pre_size=pixels, img_size=pixels)


def _labelled(name: str) -> Mapping[str, np.ndarray]:
    spec = importlib.util.spec_from_file_location("load_pack", DATA / "load_pack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(DATA / name)


def _of_each_class(pack: Mapping[str, np.ndarray], count: int) -> dict[int, list[Item]]:
    generator = np.random.default_rng(0)
    chosen = {
        int(label): generator.permutation(np.flatnonzero(pack["labels"] == label))[:count]
        for label in np.unique(pack["labels"])
    }
    return {
        label: [(Image.fromarray(pack["images"][index]), label) for index in indices]
        for label, indices in chosen.items()
    }


def _drawn(pack: Mapping[str, np.ndarray], count: int) -> list[Item]:
    indices = np.random.default_rng(0).permutation(len(pack["images"]))[:count]
    return [Image.fromarray(pack["images"][index].squeeze()) for index in indices]
