"""The study of attacks: what an attack may do, by hand, and the study in a small form."""

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
    return importlib.import_module("attack")


@pytest.mark.parametrize("steps", [1, 20])
def test_an_attack_climbs_a_plane_to_the_corner_of_its_box(study: Any, steps: int) -> None:
    """The maximum of a linear objective within the box and 0..1 is known."""
    images = torch.tensor([[0.5, 0.5, 0.02], [0.98, 0.5, 0.5]])
    slope = torch.tensor([1.0, -2.0, -0.5])
    moved = study.ascend(images, lambda each: each @ slope, steps, start=False)
    expected = (images + study.EPSILON * slope.sign()).clamp(0, 1)
    assert torch.allclose(moved, expected, atol=1e-6)


def test_an_attack_stays_in_its_box(study: Any) -> None:
    images = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    moved = study.ascend(images, lambda each: each.square().sum(dim=1), 20)
    assert float((moved - images).abs().max()) <= study.EPSILON + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert bool((moved.square().sum(dim=1) > images.square().sum(dim=1)).all())


@pytest.mark.slow
def test_attacks_do_what_they_are_for(study: Any) -> None:
    data = study.digits()
    found = {kind: study.measured(kind, 0, data, epochs=15) for kind in ("standard", "adversarial")}
    for values in found.values():
        assert values["accuracy"] > 95
        assert values["PGD"] <= values["FGSM"] + 1 <= values["accuracy"] + 1
        assert values["NC1 attacked, layer 3"] > values["NC1, layer 3"]
        assert values["both terms high: OOD raised on both, %"] > values["both terms high: OOD, %"]
        for name in study.DETECTORS:
            assert values[f"{name}, OOD raised"] < values[f"{name}, clean"]
            assert values[f"{name}, OOD raised"] < values[f"{name}, OOD raised on both terms"]
            assert values[f"{name}, ID lowered"] < values[f"{name}, clean"]
        for place in (1, 2, 3):
            assert values[f"leap, layer {place}"] > 0
    assert found["adversarial"]["PGD"] > found["standard"]["PGD"]
