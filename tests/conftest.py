"""Shared fixtures: golden vectors of OpenOOD's detectors, and small networks' features made on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin.benchmarks.benchmark import Benchmark, Features
from nci_plugin.head import LinearHead
from nci_plugin.statistics import ClassStatistics, unit_rows

GOLDEN = Path(__file__).parent / "golden"


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: networks of a few pixels are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the fault tests counted: kills survived, bytes flipped, mutants tried."""
    counts = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if report.when == "call" and name == "count"
    ]
    if counts:
        terminalreporter.section("faults tried")
        terminalreporter.write("".join(f"{line}\n" for line in counts))


class Toy:
    """A collapsed network: features near K orthogonal class means, OOD features near their centre."""

    def __init__(self, num_classes: int = 5, num_features: int = 32, per_class: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        means = torch.eye(num_features)[:num_classes] * 4 + 0.5
        weight = (means - means.mean(0)) / 2
        self.head = LinearHead(weight, torch.randn(num_classes, generator=generator) * 0.1, "ToyNet")
        self.labels = torch.arange(num_classes).repeat_interleave(per_class)
        self.train = self.rows(means[self.labels], generator)
        self.test = self.rows(means[self.labels], generator)
        self.far = self.rows(means.mean(0).repeat(len(self.labels), 1) * 0.5, generator)
        self.statistics = ClassStatistics(num_classes, num_features).update(self.train, self.labels)
        self.unit_statistics = ClassStatistics(num_classes, num_features).update(unit_rows(self.train), self.labels)

    @staticmethod
    def rows(means: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return (means + 0.3 * torch.randn(means.shape, generator=generator)).relu()


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips where torch.compile cannot be used: an old torch on a newer Python."""
    try:
        torch.compile(torch.nn.Identity(), backend="eager")(torch.ones(1))
    except RuntimeError as error:
        pytest.skip(f"torch.compile: {error}")
