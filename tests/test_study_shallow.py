"""Directional collapse of a shallow ReLU network against its known end."""

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
    return importlib.import_module("shallow")


def test_inputs_are_orthogonally_separable(study: Any) -> None:
    inputs, labels = study.separable(0)
    same = labels[:, None] == labels
    products = inputs @ inputs.T
    assert bool((products[same] > 0).all())
    assert bool((products[~same] <= 0).all())


def test_two_lines_by_hand(study: Any) -> None:
    """Neurons along (1, 0) of lengths 1 and 2 stay, one at an angle of it is turned; features of the others are 0."""
    weight = torch.tensor([[1.0, 0], [2, 0], [-1, 0]], dtype=torch.float64)
    inputs = torch.tensor([[3.0, 1], [-2, 0]], dtype=torch.float64)
    expected = torch.tensor([[3.0, 6, 0], [0, 0, 2]], dtype=torch.float64)
    assert torch.allclose(study.on_two_lines(inputs, weight), expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_directions_collapse_from_small_weights_and_lengths_do_not(study: Any, seed: int) -> None:
    inputs, labels, start, end = study.train(1e-3, seed, steps=3000)
    before, after = (study.measured(inputs, labels, weight) for weight in (start, end))
    assert before["cosine within classes"] < 0.9
    assert after["cosine within classes"] > 1 - 1e-4
    assert after["NC1"] == pytest.approx(after["NC1 of two lines"], rel=1e-3)
    assert after["NC1"] > 0.02
    lazy = study.measured(inputs, labels, study.train(1.0, seed, steps=3000)[3])
    assert lazy["cosine within classes"] < 0.95
