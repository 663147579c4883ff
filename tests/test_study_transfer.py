"""The study of transfer: its parts by hand, and the study in a small form."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts" / "study"))
    return importlib.import_module("transfer")


def test_a_probe_learns_what_is_separable_and_no_more(study: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    rows = torch.randn(40, 3, generator=generator)
    apart = rows + 20 * labels[:, None]
    assert study.probe(apart, labels, apart, labels) == 100
    assert study.probe(rows[:20], labels[:20], rows[20:], labels[20:]) < 80
    assert study.few(torch.tensor([1, 0, 1, 1, 0]), 2).tolist() == [1, 4, 0, 2]


def test_data_are_split_into_old_and_new(study: Any) -> None:
    data = study.digits()
    assert sorted(data) == ["new test", "new train", "old test", "old train"]
    assert sum(len(labels) for _, labels in data.values()) == 1797
    assert all((labels < 5).all() == name.startswith("old") for name, (_, labels) in data.items())


def test_correlations_over_regimes(study: Any) -> None:
    names = {name for pair in study.QUESTIONS for name in pair}
    falling = [{name: float(place if name.startswith("NC1") else -place) for name in names} for place in range(4)]
    found = {(one, other): (mean, half) for one, other, mean, half in study.correlations([falling, falling])}
    assert found["NC1, stage 3", "forgetting, %"] == (pytest.approx(-1), pytest.approx(0))
    assert found["geometric complexity", "probe, stage 3, %"] == (pytest.approx(1), pytest.approx(0))


@pytest.mark.slow
def test_longer_training_collapses_and_costs_the_probe_at_depth(study: Any) -> None:
    for seed in (0, 1):
        short, long = (study.measured(length, 1e-2, seed) for length in (3, 150))
        assert long["NC1, stage 3"] < short["NC1, stage 3"] / 2
        assert long["probe, stage 3, %"] < short["probe, stage 3, %"]
        assert long["probe, stage 3, %"] < long["probe, stage 1, %"]
        assert long["forgetting, %"] > 10
        assert long["accuracy on the new, %"] > 80
