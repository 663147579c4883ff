"""The study of grokking: when a series settles, by hand, and the study in a small form."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts" / "study"))
    return importlib.import_module("grokking")


def test_a_step_settles_where_it_steps(study: Any) -> None:
    epochs = [1, 2, 4, 8, 16]
    assert study.settles(epochs, [0, 0, 0, 5, 5]) == 8
    assert study.settles(epochs, [0, 5, 0, 5, 5]) == 8, "what comes back has not settled"
    assert study.settles(epochs, [3, 3, 3, 3, 3]) == 1
    assert study.settles(epochs, [0, 1, 2, 3, 4]) == 16, "what still moves settles at the end"
    assert study.halfway(epochs, [0, 1, 3, 3.5, 4]) == 4
    assert study.halfway(epochs, [0, 3, 1, 3.5, 4]) == 8
    assert study.halfway(epochs, [2, 2, 2, 2, 2]) == 16


def test_a_decay_settles_after_its_time_constants(study: Any) -> None:
    """exp(-t / tau) is within a tenth of its range after tau log 10, half-way after tau log 2."""
    epochs = list(range(1, 2001))
    values = np.exp(-(np.arange(1, 2001) - 1) / 100)
    assert study.settles(epochs, values) == pytest.approx(1 + 100 * np.log(10), abs=1)
    assert study.halfway(epochs, values) == pytest.approx(1 + 100 * np.log(2), abs=1)


@pytest.mark.slow
def test_decay_sets_the_pace_of_grokking(study: Any, tmp_path: Path) -> None:
    """The larger decay collapses further and generalises earlier; images are fitted before both."""
    runs = {decay: study.run(decay, 0, epochs=1500) for decay in (0.2, 1.0)}
    small, large = (study.summary(*each) for each in runs.values())
    assert small["test accuracy when fitted, %"] < 60 < small["test accuracy, %"]
    assert large["NC1"] < small["NC1"] / 3
    assert large["half-way, test, epoch"] < small["half-way, test, epoch"]
    assert large["half-way, NC1, epoch"] < small["half-way, NC1, epoch"]
    study.draw(runs, tmp_path / "grokking.png")
    assert (tmp_path / "grokking.png").stat().st_size > 5000
