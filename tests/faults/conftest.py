"""What the fault tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import Whole
from tiny import Tiny, draw_nothing

TRAINING = {"bank": ["msp", "nci", "knn3.yml"], "statistics": ["msp", "nci"]}


@pytest.fixture(params=TRAINING)
def whole(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Whole:
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    monkeypatch.setattr("nci_plugin.features.shard_collector.STATISTICS_SECONDS", 0)
    return Whole(Tiny(tmp_path), TRAINING[request.param])
