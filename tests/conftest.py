"""Shared fixtures: golden vectors of OpenOOD's detectors, and small networks' features made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from golden_vectors import Golden

from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead


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
