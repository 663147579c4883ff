"""The training of `scripts/bench/gpu.sh`: its images, and the files that travel back."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from nci_plugin.config import load_benchmark

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("training")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def test_the_files_of_a_benchmark_of_openood_are_few_and_have_all_rows(tmp_path: Path, training: ModuleType) -> None:
    names = [name for name in load_benchmark("cifar10").with_csid([]).splits if name != "id/train"]
    features = {name: (torch.rand(30, 10), torch.full((30,), -1)) for name in ["id/train", *names]}
    rows = training.stored(tmp_path, features, {"counts": torch.zeros(10)})
    assert list(rows) == ["id.train", "id.val", "id.test", "ood.val", "near", "far"]
    assert len(list(tmp_path.iterdir())) == 7
    assert sum(rows.values()) == 30 * len(features)
    with np.load(tmp_path / "far.npz") as far:
        for number, name in enumerate(far["names"]):
            found = torch.from_numpy(far["features"][far["data_set"] == number])
            assert torch.equal(found, features[str(name)][0].half())


def test_files_that_travel_stay_within_their_limits(
    tmp_path: Path, training: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "FILE_BYTES", 20_000)
    monkeypatch.setattr(training, "ALL_BYTES", 40_000)
    names = ["id/train", "id/test", "ood/val", *(f"far/{number}" for number in range(9))]
    features = {name: (torch.zeros(900, 10), torch.zeros(900).long()) for name in names}
    rows = training.stored(tmp_path, features, {"counts": torch.zeros(10)})
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) <= 20_000
    assert sum(sizes) <= 40_000
    assert all(0 < count < 900 for count in rows.values())
    assert f"id.train.npz: {900 - rows['id.train']} of 900 rows are left out" in capsys.readouterr().err
    with np.load(tmp_path / "far.npz") as far:
        counts = np.bincount(far["data_set"])
    assert len(counts) == 9
    assert counts.max() - counts.min() <= 1


def test_images_are_cut_out_of_black(training: ModuleType) -> None:
    """As OpenOOD, which puts black around before it normalises."""
    black = torch.tensor([-2.0, -3.0, -4.0])[:, None, None]
    images = torch.rand(64, 3, 8, 8)
    cut = training.augmented(images, black, torch.Generator().manual_seed(0))
    assert cut.shape == images.shape
    outside = cut < 0
    assert outside.any()
    assert torch.equal(cut[outside], black.expand_as(cut)[outside])
    assert not (cut == 0).any()
