"""What `scripts/bench/gpu.sh` does about its time, and its training: images, and the files that travel back."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin.config import load_benchmark

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


@pytest.fixture
def training() -> ModuleType:
    return importlib.import_module("training")


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


def test_what_a_part_reported_before_its_time_was_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    all_parts, part_list = (importlib.import_module(name) for name in ("all_parts", "part_list"))

    def ended(command: list[str], *_: Any) -> tuple[None, str]:
        Path(command[-1]).write_text('{"methods_compared": 3}', encoding="utf-8")
        return None, ""

    monkeypatch.setattr(all_parts, "_ended", ended)
    record = all_parts.run(part_list.Part("c", "replay", "device_replay.py"), most=90.0)
    assert record["skipped"] == "it takes more than 90 s"
    assert record["report"] == {"methods_compared": 3}
    assert list(all_parts.results(record)) == [("skipped", "it takes more than 90 s"), ("methods compared", "3")]
    monkeypatch.setattr(all_parts, "_ended", lambda *_: (None, ""))
    assert "report" not in all_parts.run(part_list.Part("c", "replay", "device_replay.py"), most=90.0)


def test_medians_are_told_after_each_round(tmp_path: Path) -> None:
    measuring, ticks, told = importlib.import_module("measuring"), count(), []
    found = measuring.in_turn({"a": lambda: None, "b": lambda: None}, 3, lambda: next(ticks), told.append)
    assert told == [{"a": 1, "b": 1}] * 2
    assert found == {"a": 1, "b": 1}
    measuring.keep({"a_s": 1.0}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == {"a_s": 1.0}


def test_seconds_that_are_spent_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, part_list = (importlib.import_module(name) for name in ("gpu", "part_list"))
    limits = []
    monkeypatch.setattr(gpu, "parts", lambda options: [part_list.Part("a", "tests", "device_tests.py")])
    monkeypatch.setattr(gpu, "run", lambda part, most: limits.append(most) or {"part": "a", "name": "", "skipped": ""})
    gpu.main(["--device=cpu", f"--output={tmp_path}", "--minutes=2", "--spent=100"])
    assert all(0 < most <= 20 for most in limits)


PYTHON = """#!/bin/sh
case $1 in
-c) ;;
*requirements.py)
    printf '%s\\n' 'missing ruff>=1' 'missing types-x' 'missing pytest>=7' 'unsuited numpy>=2 (1.0 is installed)' ;;
*) echo "$@" ;;
esac
"""


def test_what_the_environment_lacks_for_a_part_is_said(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    command = ["env", f"PYTHON={tmp_path / 'python'}", "bash", str(BENCH / "gpu.sh"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines() == ["gpu.sh: lacks pytest>=7", "gpu.sh: lacks numpy>=2 (1.0 is installed)"]
    assert re.fullmatch(r"scripts/bench/gpu.py --spent \d+ --quick\n", done.stdout)
