"""Golden vectors: features of a small CNN on digits, and what OpenOOD v1.5's own detectors answer on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nci_plugin.benchmarks.benchmark import Benchmark, Features
from nci_plugin.networks.head import LinearHead

GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """Features of a small CNN on digits, and what OpenOOD v1.5's own detectors answer on them."""

    SPLITS = {
        "train": "id/train",
        "val": "id/val",
        "test": "id/test",
        "csid": "csid/csid",
        "oodval": "ood/val",
        "near": "near/near",
        "far": "far/far",
    }

    def __init__(self) -> None:
        with np.load(GOLDEN / "openood_digits.npz") as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.tables: dict[str, Any] = json.loads((GOLDEN / "openood_digits.json").read_text())
        self.head = LinearHead(self.tensor("head/weight"), self.tensor("head/bias"))

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def features(self, split: str) -> Features:
        return Features(self.tensor(f"features/{split}"), self.tensor(f"labels/{split}").long())

    def benchmark(self) -> Benchmark:
        features = {name: self.features(name) for name in self.SPLITS}
        return Benchmark.from_splits(
            "golden",
            6,
            train=features["train"],
            val=features["val"],
            test=features["test"],
            csid={"csid": features["csid"]},
            ood_val=features["oodval"],
            near={"near": features["near"]},
            far={"far": features["far"]},
        )
