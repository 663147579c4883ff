"""The study of linguistic collapse in a small form; it needs transformers."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts" / "study"))
    return importlib.import_module("language")


@pytest.mark.slow
def test_the_text_has_more_characters_than_features(study: Any) -> None:
    ids, vocabulary = study.text()
    assert len(ids) > 100_000
    assert vocabulary > 3 * study.WIDTH
    assert int(ids.max()) == vocabulary - 1


@pytest.mark.slow
def test_training_moves_duality_and_agreement_as_collapse(study: Any) -> None:
    first, last = (study.measured(model, 128) for _, model in study.trained(0, (0, 150)))
    assert last["validation loss"] < first["validation loss"] - 1.5
    assert last["CDNV"] < first["CDNV"]
    assert last["cos(w, mu)"] > first["cos(w, mu)"] + 0.2
    assert last["NC4"] > first["NC4"]
    assert len(list(study.tables([[first, last], [first, last]], (0, 150)))) == 2 + len(first)


@pytest.mark.slow
def test_the_memory_is_that_of_the_means_and_not_of_pairs(study: Any) -> None:
    """In a process of its own, whose peak nothing else has raised: all pairs would be 1.1 GB."""
    command = [sys.executable, study.__file__, "--memory", "--vocabulary", "12000", "--width", "16"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "vocabulary 12000, P = 16: 12000 tokens compared" in text
    assert "a matrix of all pairs: 1.1 GB" in text
    more = re.search(r"peak: (\d+) MB beyond", text)
    assert more is not None
    assert int(more[1]) < 500
