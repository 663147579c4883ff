"""Nearest neighbours among stored training features, which are read block by block and never held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import twins
from second_device import CPU, DEVICE, SecondDevice

from nci_plugin.checks import PluginError
from nci_plugin.config import load_detector
from nci_plugin.deploy.state import detector_from, state_of
from nci_plugin.detectors import knn, registry
from nci_plugin.detectors.base import Sizes
from nci_plugin.evaluation.scoring import score_split
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.networks.head import LinearHead


def test_neighbours_are_looked_for_in_the_stored_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, never in one piece; `scripts/bench/neighbours.py` measures the memory that this takes."""
    generator, rows = torch.Generator().manual_seed(0), []
    train, tested = (torch.rand(60, 6, generator=generator) for _ in range(2))
    monkeypatch.setattr(knn, "BANK_ROWS", 8)
    monkeypatch.setattr(FeatureSplit, "features", property(lambda _: pytest.fail("all features in memory")))
    blocks = knn.KNN._blocks

    def counted(*arguments: Any) -> Iterator[torch.Tensor]:
        for block in blocks(*arguments):
            rows.append(len(block))
            yield block

    monkeypatch.setattr(knn.KNN, "_blocks", counted)
    for name in ("knn", "knn_l1"):
        registry.create(name, K=3).fit(split(train, [20, 40]), HEAD).score(tested, HEAD.logits(tested))
    assert sum(rows) == 2 * len(train)
    assert max(rows) == 8


@pytest.mark.parametrize("factor", [1e-40, 1e-20, 1e-14, 1e-8, 1e8, 1e18, 1e30])
def test_distances_of_directions_do_not_know_the_length(factor: float) -> None:
    """Where float32 has no square of a length, above 1e19 and below 1e-19, too; at 1e-40 it has few digits left."""
    generator = torch.Generator().manual_seed(0)
    train, tested = (torch.rand(rows, 6, generator=generator) for rows in (30, 11))
    logits = HEAD.logits(tested)

    def scores(rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return registry.create("knn", K=3).fit(split(rows, [30]), HEAD).score(images, logits)

    expected = scores(train, tested)
    close = {"rtol": 1e-2, "atol": 1e-3} if factor < 1e-38 else {"rtol": 1e-4, "atol": 1e-6}
    long, scaled = ((rows.double() * factor).float() for rows in (train, tested))
    for found in (scores(long, scaled), scores(train, scaled), scores(long, tested)):
        torch.testing.assert_close(found, expected, **close)


def test_lengths_that_differ_from_row_to_row_and_rows_of_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    train, tested = (torch.rand(rows, 6, generator=generator) for rows in (30, 11))
    lengths = 10.0 ** torch.linspace(-25, 25, 30)
    detector = registry.create("knn", K=3)
    expected = detector.fit(split(train, [30]), HEAD).score(tested, HEAD.logits(tested))
    found = detector.fit(split(train * lengths[:, None], [10, 20]), HEAD).score(tested, HEAD.logits(tested))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert detector.score(torch.zeros(1, 6), torch.zeros(1, 3)).item() == pytest.approx(-1)


@pytest.mark.parametrize("shards", [[30], [7, 1, 22], [10, 10, 10]])
@pytest.mark.parametrize("bank_rows", [1, 8, 30])
@pytest.mark.parametrize("K", [1, 9, 30])
def test_blocks_do_not_change_the_neighbours(
    monkeypatch: pytest.MonkeyPatch, shards: list[int], bank_rows: int, K: int
) -> None:
    """Also where K is more than a block or a shard has."""
    monkeypatch.setattr(knn, "BANK_ROWS", bank_rows)
    monkeypatch.setattr(knn, "QUERY_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    train, queries = (torch.rand(rows, 6, generator=generator) for rows in (30, 11))
    detector = registry.create("knn", K=K).fit(split(train, shards), HEAD)
    expected = twins.knn(queries.double().numpy(), None, train.double().numpy(), None, K=K)
    torch.testing.assert_close(detector.score(queries, HEAD.logits(queries)).double(), torch.from_numpy(expected))


def test_distances_that_are_kept_are_those_of_their_device() -> None:
    train, rows = torch.rand(2, 30, 6, generator=torch.Generator().manual_seed(0))
    detector = registry.create("knn_l1", K=3).fit(split(train, [30]), HEAD)
    with SecondDevice():
        there = detector.score(rows.to(DEVICE), HEAD.logits(rows).to(DEVICE))
        here = detector.score(rows, HEAD.logits(rows))
        assert (there.device, here.device) == (DEVICE, CPU)
        assert torch.equal(there.cpu(), here)


def test_a_search_of_alpha_reads_the_training_features_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, tested = (split(torch.rand(30, 6, generator=generator), [30]) for _ in range(2))
    detector = registry.create("knn_l1", K=3).fit(train, HEAD)
    passes = []
    monkeypatch.setattr(
        knn.KNN, "_blocks", lambda self, device, blocks=knn.KNN._blocks: passes.append(1) or blocks(self, device)
    )
    scores = [score_split(detector.set_hyperparameters(alpha=alpha), tested) for alpha in (0.0, 0.1, 1.0)]
    assert len(passes) == 1
    norm = tested.features.sum(dim=1).numpy()
    assert scores[2] - scores[0] == pytest.approx(norm, rel=1e-5)
    score_split(detector.set_hyperparameters(K=4), tested)
    score_split(detector, train)
    score_split(detector.fit(train, HEAD), tested)
    assert len(passes) == 4


with_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


@with_faiss
@pytest.mark.parametrize("K", [1, 9, 300])
@pytest.mark.parametrize("count", [1, 11, 90])
def test_faiss_finds_the_same_neighbours(K: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows are there twice or have no length, and in blocks; it searches a few queries in another way."""
    monkeypatch.setattr(knn, "BANK_ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    train, tested = (torch.rand(rows, 6, generator=generator) for rows in (300, count))
    train[100:130], train[7], tested[0] = train[:30], 0, train[2]
    logits = HEAD.logits(tested)
    expected, found = (
        registry.create("knn", K=K, index=index).fit(split(train, [250, 50]), HEAD).score(tested, logits)
        for index in ("blocks", "faiss")
    )
    assert (found - expected).abs().max() <= 1e-5


@with_faiss
def test_an_index_is_of_the_training_features_that_are_there(tmp_path: Path) -> None:
    """After another fit, where others were put in their place, and read from a file."""
    (tmp_path / "mine.yml").write_text("postprocessor: {name: knn, postprocessor_args: {K: 3, index: faiss}}\n")
    detector = load_detector(str(tmp_path / "mine.yml")).detector
    assert detector.get_hyperparameters() == {"K": 3, "index": "faiss"}
    generator = torch.Generator().manual_seed(0)
    first, second, tested = (torch.rand(30, 6, generator=generator) for _ in range(3))
    usual = registry.create("knn", K=3)
    scores = {}
    for name, train in (("first", first), ("second", second)):
        scores[name] = usual.fit(split(train, [30]), HEAD).score(tested, HEAD.logits(tested))
        found = detector.fit(split(train, [30]), HEAD).score(tested, HEAD.logits(tested))
        torch.testing.assert_close(found, scores[name])
    state = state_of(detector)
    detector.training_ = split(first, [30])
    torch.testing.assert_close(detector.score(tested, HEAD.logits(tested)), scores["first"])
    read = detector_from(state.values, state.tensors, "a file")
    torch.testing.assert_close(read.score(tested, HEAD.logits(tested)), scores["second"])


def test_an_index_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match="'knn': index: must be one of blocks, faiss, got 'hnsw'"):
        registry.create("knn").set_hyperparameters(index="hnsw")
    monkeypatch.setattr(knn, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="index faiss needs that library, which is not installed; pip install"):
        registry.create("knn").set_hyperparameters(index="faiss")


@with_faiss
def test_what_an_index_takes_is_reckoned() -> None:
    terms = [registry.create("knn", index=index).memory_terms for index in ("blocks", "faiss")]
    assert Sizes(100, 0, 7, 3).of(terms[1]) - Sizes(100, 0, 7, 3).of(terms[0]) == 12 * 100 * 7


HEAD = LinearHead(torch.zeros(3, 6), torch.zeros(3))


def split(features: torch.Tensor, shards: list[int]) -> FeatureSplit:
    labels = torch.zeros(len(features), dtype=torch.long)
    parts = (each.split(shards) for each in (features, HEAD.logits(features), labels))
    return FeatureSplit([Chunk(*rows) for rows in zip(*parts)])
