"""The study of progressive collapse in a small form."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts" / "study"))
    return importlib.import_module("progressive")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("ResNet-18", 4), ("transformer", 7)])
def test_training_makes_variability_fall_through_the_stages(study: Any, kind: str, count: int) -> None:
    before, after = study.run(kind, 0, epochs=5)
    assert len(before) == len(after) == count
    first, last = study.summary(before), study.summary(after)
    assert last["NC1, factor a stage"] < 1
    assert last["NC1, factor a stage"] < first["NC1, factor a stage"]
    assert last["NC1, monotonicity"] >= 2 / 3
    assert last["NC1, last stage"] < first["NC1, last stage"]
