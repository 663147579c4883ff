"""Shared fixtures: golden vectors of OpenOOD's detectors, and small networks' features made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from golden_vectors import Golden

from nci_plugin.testing import CollapsedFeatures


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


@pytest.fixture(scope="session")
def toy() -> CollapsedFeatures:
    return CollapsedFeatures()


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips where torch.compile cannot be used: an old torch on a newer Python."""
    try:
        torch.compile(torch.nn.Identity(), backend="eager")(torch.ones(1))
    except RuntimeError as error:
        pytest.skip(f"torch.compile: {error}")


@pytest.fixture(autouse=True, scope="session")
def wide_lines() -> Iterator[None]:
    """Lines that are not folded: a path of a temporary directory is long. The tests of lines have their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
        patch.setattr("nci_plugin.report.terminal.WIDTH", 10_000)
        yield
