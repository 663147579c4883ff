"""The study of heads, in a small form."""

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
    return importlib.import_module("heads")


def test_what_a_step_holds_is_counted(study: Any) -> None:
    """A linear layer without bias of 3072 x 10, by hand: three times its weights, and its input for the backward."""
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10, bias=False))
    parameters, state, activations = study.held(layer, batch=4).values()
    assert parameters == 30720
    assert state == pytest.approx(3 * 30720 * 4 / 2**20)
    assert 4 * 3072 * 4 <= activations * 2**20 < 4 * 3072 * 4 + 1000  # and what logsumexp saves of 4 x 10 logits
    frozen = layer.requires_grad_(False)
    frozen[0] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3072))
    assert study.held(frozen, batch=4)["parameters"] == 30720 + 3072**2 + 3072


def test_a_narrow_resnet_has_as_many_features_as_classes(study: Any) -> None:
    """Parameters by hand: the last convolution has 512 x 10 x 9 weights instead of 512 x 512 x 9, and a shortcut."""
    full, narrow = study.resnet18(10, "fixed_etf"), study.resnet18(10, "fixed_etf", "convolution")
    count = [sum(each.numel() for each in network.parameters()) for network in (full, narrow)]
    shortcut, norms, heads = 512 * 10 + 2 * 10, 2 * (512 - 10), 5120 - 100
    assert count[0] - count[1] == 512 * (512 - 10) * 9 + norms - shortcut + heads
    logits, features = study.resnet18(10, "fixed_etf", "block", width=2)(torch.randn(3, 3, 8, 8), return_feature=True)
    assert features.shape == logits.shape == (3, 10)


@pytest.mark.slow
def test_a_narrow_resnet_learns(study: Any) -> None:
    assert study.narrowed("fixed_etf", "block", 0, epochs=4) > 80


@pytest.mark.slow
def test_every_head_and_its_frame(study: Any) -> None:
    runs = {head: study.run(head, "mse", 0, epochs=60) for head in study.HEADS}
    for values in runs.values():
        assert values["test accuracy, %"] > 90
        assert values["NC1"] < 0.2
    assert runs["fixed_etf"]["NC2A"] == pytest.approx(0, abs=1e-6)
    assert runs["fixed_etf"]["NC2B"] == pytest.approx(1 / 9, abs=1e-6)
    assert runs["fixed_etf"]["mean cosine"] == pytest.approx(-1 / 9, abs=1e-6)
