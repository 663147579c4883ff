"""Nearest neighbours among stored training features, which are read block by block and never held in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import twins

from nci_plugin.detectors import knn, registry
from nci_plugin.feature_bank import Chunk, FeatureSplit, SplitStore
from nci_plugin.head import LinearHead
from nci_plugin.parameter_search import score_split

DETECTORS = ["knn", "knn_l1"]
FEATURES, CLASSES, QUERIES, SHARD_ROWS = 256, 10, 512, 2000
SIZES = 20_000, 80_000
"""Rows of a training set, both more than are read at once."""
LARGEST_GROWTH = 0.1
"""Of what the larger training set has more in bytes."""

CHILD = """
import sys, threading, time
from pathlib import Path
import torch
from nci_plugin.detectors import registry
from nci_plugin.feature_bank import SplitStore
from nci_plugin.head import LinearHead

def anonymous():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.002):
        peaks.append(anonymous())

store, features, classes, queries = Path(sys.argv[1]), *map(int, sys.argv[2:5])
torch.set_num_threads(1)
head = LinearHead(torch.randn(classes, features), torch.zeros(classes))
training = SplitStore(store).load()
images = torch.rand(queries, features), torch.zeros(queries, classes)
for name in sys.argv[5:]:
    registry.create(name).fit(training, head).score(*(rows[:8] for rows in images))  # the library's own buffers
done, peaks = threading.Event(), [anonymous()]
thread = threading.Thread(target=watch)
thread.start()
for name in sys.argv[5:]:
    detector = registry.create(name).fit(training, head)
    detector.score(*images)
    peaks.append(anonymous())
done.set()
thread.join()
print(max(peaks) - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neighbours_are_looked_for_in_the_stored_features(tmp_path: Path) -> None:
    """Anonymous memory: pages of a mapped file count elsewhere, and the system takes them back when it needs them."""
    smaller, larger = (_peak(tmp_path / str(size), size) for size in SIZES)
    assert larger - smaller < LARGEST_GROWTH * (SIZES[1] - SIZES[0]) * FEATURES * 4, (smaller, larger)


def _peak(directory: Path, rows: int) -> int:
    """Bytes that fitting and scoring take at most, in a process of its own."""
    store, generator = SplitStore(directory), torch.Generator().manual_seed(0)
    for number in range(rows // SHARD_ROWS):
        features = torch.rand(SHARD_ROWS, FEATURES, generator=generator)
        labels = torch.zeros(SHARD_ROWS, dtype=torch.long)
        store.add_shard(number, Chunk(features, torch.zeros(SHARD_ROWS, CLASSES), labels))
    store.finish(rows, {})
    arguments = [str(directory), *map(str, (FEATURES, CLASSES, QUERIES)), *DETECTORS]
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", CHILD, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)


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


def test_a_search_of_alpha_reads_the_training_features_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, tested = (split(torch.rand(30, 6, generator=generator), [30]) for _ in range(2))
    detector = registry.create("knn_l1", K=3).fit(train, HEAD)
    passes = []
    monkeypatch.setattr(
        knn.KNN, "_blocks", lambda self, like, blocks=knn.KNN._blocks: passes.append(1) or blocks(self, like)
    )
    scores = [score_split(detector.set_hyperparameters(alpha=alpha), tested) for alpha in (0.0, 0.1, 1.0)]
    assert len(passes) == 1
    norm = tested.features.sum(dim=1).numpy()
    assert scores[2] - scores[0] == pytest.approx(norm, rel=1e-5)
    score_split(detector.set_hyperparameters(K=4), tested)
    score_split(detector, train)
    score_split(detector.fit(train, HEAD), tested)
    assert len(passes) == 4


HEAD = LinearHead(torch.zeros(3, 6), torch.zeros(3))


def split(features: torch.Tensor, shards: list[int]) -> FeatureSplit:
    labels = torch.zeros(len(features), dtype=torch.long)
    parts = (each.split(shards) for each in (features, HEAD.logits(features), labels))
    return FeatureSplit([Chunk(*rows) for rows in zip(*parts)])
