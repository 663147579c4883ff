"""The study of heads, in a small form."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_head_and_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts" / "study"))
    study = importlib.import_module("heads")
    runs = {head: study.run(head, "mse", 0, epochs=60) for head in study.HEADS}
    for values in runs.values():
        assert values["test accuracy, %"] > 90
        assert values["NC1"] < 0.2
    assert runs["fixed_etf"]["NC2A"] == pytest.approx(0, abs=1e-6)
    assert runs["fixed_etf"]["NC2B"] == pytest.approx(1 / 9, abs=1e-6)
    assert runs["fixed_etf"]["mean cosine"] == pytest.approx(-1 / 9, abs=1e-6)
