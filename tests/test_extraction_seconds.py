"""extraction_seconds is what all visits together took to make the features."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import Tiny

from nci_plugin.config import load_benchmark
from nci_plugin.features import extract as module
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.features.processes import Processes

BATCH = 4


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A shard holds one batch here."""
    monkeypatch.setattr("nci_plugin.features.shard_collector.SHARD_BYTES", 1)
    return Tiny(tmp_path / "tiny")


def visit(tiny: Tiny, store: Path | None = None) -> FeatureBank:
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)
    return module.extract(tiny.loaded(), benchmark, options=ExtractionOptions("cpu", BATCH, store=store))


def seconds_file(store: Path) -> Path:
    (path,) = store.with_name(module.SECONDS).glob("*.json")
    return path


def test_a_repeated_run_says_what_its_features_took(tiny: Tiny, tmp_path: Path) -> None:
    first = visit(tiny, tmp_path / "features").provenance["extraction_seconds"]
    stored = json.loads(seconds_file(tmp_path / "features").read_text())
    assert 0 < stored <= first
    assert visit(tiny, tmp_path / "features").provenance["extraction_seconds"] == stored


def test_a_resumed_run_adds_its_own(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visit(tiny, tmp_path / "features")
    path = seconds_file(tmp_path / "features")
    path.write_text("1000.0")
    next((tmp_path / "features").glob("*/id.test-*/*.safetensors")).unlink()
    assert 1000 < visit(tiny, tmp_path / "features").provenance["extraction_seconds"] < 2000


def test_features_of_an_earlier_version_have_no_known_seconds(tiny: Tiny, tmp_path: Path) -> None:
    visit(tiny, tmp_path / "features")
    seconds_file(tmp_path / "features").unlink()
    assert visit(tiny, tmp_path / "features").provenance["extraction_seconds"] is None


def test_in_memory_it_is_this_visit(tiny: Tiny) -> None:
    assert visit(tiny).provenance["extraction_seconds"] > 0


class Counters:
    """Those by which processes wait for one another."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, key: str, more: int) -> int:
        self.counts[key] += more
        return self.counts[key]


@pytest.mark.parametrize("shard", [0, 1], ids=["the first passes", "the second passes"])
@pytest.mark.parametrize("is_known", [True, False])
def test_two_processes_know_what_earlier_visits_took(tiny: Tiny, tmp_path: Path, is_known: bool, shard: int) -> None:
    store, counters = tmp_path / "features", Counters()
    visit(tiny, store)
    path = seconds_file(store)
    if is_known:
        path.write_text("1000.0")
    else:
        path.unlink()
    sorted(store.glob("*/id.test-*/*.safetensors"))[shard].unlink()
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)

    def process(rank: int) -> FeatureBank:
        options = ExtractionOptions("cpu", BATCH, store=store, processes=Processes(rank, 2, counters))
        return module.extract(tiny.loaded(), benchmark, options=options)

    with ThreadPoolExecutor(2) as pool:
        bank, _ = pool.map(process, range(2))
    seconds = bank.provenance["extraction_seconds"]
    assert 1000 < seconds < 2000 if is_known else seconds is None
