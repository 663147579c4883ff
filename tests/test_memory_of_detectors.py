"""What a detector takes is bounded, or known before it starts."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from nci_plugin import machine
from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.pytorch_ood_distances import Expanded, expand
from nci_plugin.checks import PluginError
from nci_plugin.config import load_detector
from nci_plugin.detectors import base, nnguide, registry
from nci_plugin.detectors.base import Sizes
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.machine import free_memory
from nci_plugin.networks.head import LinearHead

N, P, K = 60, 6, 3
MEASURE = """
import resource, sys, torch
from nci_plugin.adapters.pytorch_ood import fit_bytes
from nci_plugin.config import load_detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead
n, p, k = 2000, 512, 1000
head = LinearHead(torch.randn(k, p), torch.zeros(k))
features = torch.randn(n, p)
split = FeatureSplit.of(features, head.logits(features), torch.arange(n) % k)
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
detector = load_detector("pytorch_ood:fdbd").detector
before = resource.getpagesize() * int(open("/proc/self/statm").read().split()[1])  # resident now, not at its peak
detector.fit(split, head)
print((peak() - before) / fit_bytes("fDBD", n, p, k))
"""


def toy() -> tuple[FeatureSplit, LinearHead]:
    torch.manual_seed(0)
    head = LinearHead(torch.randn(K, P), torch.randn(K))
    features = torch.randn(N, P)
    return FeatureSplit.of(features, head.logits(features), torch.arange(N) % K), head


def test_too_little_memory_is_said_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    split, head = toy()
    needs = pytorch_ood.fit_bytes("fDBD", N, P, K)
    assert needs == 4 * (N * P + K * K * P)
    detector = load_detector("pytorch_ood:fdbd").detector
    monkeypatch.setattr(pytorch_ood, "free_memory", lambda: needs - 1)
    with pytest.raises(PluginError, match="takes at least 0.0 GB to fit on 60 rows of 6 features and 3 classes"):
        detector.fit(split, head)
    monkeypatch.setattr(pytorch_ood, "free_memory", lambda: needs)
    detector.fit(split, head)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ru_maxrss in KiB")
def test_the_estimate_is_what_the_library_takes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 3


def test_our_own_are_refused_before_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    split, head = toy()
    detector = registry.create("knn", K=5)
    needs = Sizes(N, N, P, K).of(detector.memory_terms)
    for free, is_refused in ((needs - 1, True), (needs, False)):
        monkeypatch.setattr(base, "free_memory", lambda free=free: free)
        refused = pytest.raises(PluginError, match="takes up to 0.1 GB for 60 training and 60 validation rows")
        with refused if is_refused else nullcontext():
            detector.fit(split, head, split)


def write_meminfo(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 4000 KiB that are free and no control groups."""
    (directory / "proc" / "self").mkdir(parents=True)
    (directory / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    monkeypatch.setattr(machine, "PROC", directory / "proc")
    monkeypatch.setattr(machine, "GROUPS", directory / "cgroup")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def test_processes_of_a_machine_share_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_meminfo(tmp_path, monkeypatch)
    assert free_memory() == 4000 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # as torchrun sets it
    assert free_memory() == 1000 * 1024
    for nothing in ("", "many"):  # of a job's script
        monkeypatch.setenv("LOCAL_WORLD_SIZE", nothing)
        assert free_memory() == 4000 * 1024


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
UNLIMITED = str(2**63 - 4096)
"""As version 1 writes it."""


@pytest.mark.parametrize(
    ("line", "names", "group", "limit", "cached", "free"),
    [
        ("0::/job/7", V2, "job/7", "3000", "inactive_file 400", 3000 - 1000 + 400),
        ("0::/job/7", V2, "job", "3000", "inactive_file 0", 2000),  # of a group around it
        ("0::/", V2, "", "3000", "inactive_file 400", 2400),  # of a container, which sees its own group as the root
        ("0::/../other", V2, "", "3000", "inactive_file 400", 2400),
        ("0::/job/7", V2, "job/7", "900", "inactive_file 10", 0),
        ("0::/job/7", V2, "job/7", "max", "inactive_file 400", 4000 * 1024),
        ("0::/job/7", V2, "job/7", "9999999", "inactive_file 0", 4000 * 1024),  # more than the machine has
        ("0::/job/7", V2, "job/7", "3000", "", 4000 * 1024),  # nothing is known of its pages
        ("0::/other", V2, "job", "3000", "inactive_file 0", 4000 * 1024),
        ("4:memory:/job/7", V1, "job/7", "3000", "inactive_file 1\ntotal_inactive_file 400", 2400),
        ("4:memory:/docker/7", V1, "", "3000", "total_inactive_file 400", 2400),  # of a container
        ("4:memory:/job", V1, "job", UNLIMITED, "total_inactive_file 400", 4000 * 1024),
        ("4:cpu,memory:/job/7", V1, "job/7", "3000", "total_inactive_file 400", 2400),
        ("3:cpu:/job", V1, "job", "3000", "total_inactive_file 400", 4000 * 1024),
        ("no line of it", V2, "", "3000", "inactive_file 400", 4000 * 1024),
    ],
)
def test_a_limit_of_a_control_group(
    line: str, names: tuple[str, ...], group: str, limit: str, cached: str, free: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    write_meminfo(tmp_path, monkeypatch)
    (tmp_path / "proc/self/cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    directory = tmp_path / "cgroup" / ("memory" if names == V1 else "") / group
    directory.mkdir(parents=True)
    for name, text in zip((*names, "memory.stat"), (limit, "1000", f"anon 600\n{cached}")):
        (directory / name).write_text(f"{text}\n")
    assert free_memory() == free
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory() == free // 4


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert free_memory() == sys.maxsize
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_bytes(b"0::/\xff\n")
    assert free_memory() == sys.maxsize


def test_sizes() -> None:
    assert Sizes(2, 3, 5, 7).of({"P P": 2, "N K": 0.5, "": 4}) == 2 * 25 + 7 + 4


MEASURE_OURS = """
import threading, torch
from pathlib import Path
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Sizes
from nci_plugin.evaluation.scoring import score_split
from nci_plugin.evaluation.search import fit
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead
n, v, p, k = 20000, 6000, 320, 250
torch.set_num_threads(1)
head = LinearHead(torch.randn(k, p, generator=torch.Generator().manual_seed(0)), torch.zeros(k))
def split(rows):
    labels = torch.arange(rows) % k
    features = (head.weight[labels] + torch.randn(rows, p)).relu_()
    return FeatureSplit.of(features, head.logits(features), labels)
train, validation, test = split(n), split(v), split(4096)
statistics, unit = ClassStatistics(k, p), ClassStatistics(k, p)
statistics.update(train.features, train.labels).flush()
unit.update(unit_rows(train.features), train.labels).flush()
bank = FeatureBank(head, {"id/train": train, "id/val": validation}, statistics, unit_statistics=unit)
def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
for name in registry.names():
    detector, done, before = registry.create(name), threading.Event(), private()
    most = [before]
    def watch():
        while not done.wait(0.001):
            most.append(max(most.pop(), private()))
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        score_split(fit(detector, bank), test)
    finally:
        done.set()
        thread.join()
    print(name, most[0] - before, Sizes(n, v, p, k).of(detector.memory_terms))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads RssAnon")
def test_our_own_take_no_more_than_they_say() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE_OURS], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == registry.names()
    assert {name: (took, said) for name, took, said in rows if int(took) > int(said)} == {}
    assert max(int(took) / int(said) for _, took, said in rows) > 0.3, "an estimate that says nothing"


@pytest.mark.parametrize("name", ["gmm", "dice", "nnguide"])
def test_the_library_scores_by_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split, head = toy()
    whole = load_detector(f"pytorch_ood:{name}").detector.fit(split, head)
    row = {"gmm": 16 * K * P, "dice": 8 * K * P, "nnguide": 12 * N}[name]
    monkeypatch.setattr(pytorch_ood, "SCORED_BYTES", 7 * row)
    parts, seen = load_detector(f"pytorch_ood:{name}").detector.fit(split, head), []
    score = parts.detector_.predict_features
    monkeypatch.setattr(parts.detector_, "predict_features", lambda rows: seen.append(len(rows)) or score(rows))
    expected = whole.score(split.features, split.logits)
    torch.testing.assert_close(parts.score(split.features, split.logits), expected, rtol=1e-6, atol=1e-6)
    assert seen == [7] * 8 + [4]


@pytest.mark.parametrize("name", ["fdbd", "klm", "dice", "nnguide"])
def test_scores_by_blocks_are_the_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split, head = toy()
    detector = registry.create(name, **({"K": 5} if name == "nnguide" else {}))
    statistics = ClassStatistics(K, P).update(split.features, split.labels)
    detector.fit({"klm": None, "nnguide": split}.get(name, statistics), head, split)
    whole = detector.score(split.features, split.logits)
    monkeypatch.setattr(type(detector), "block_bytes", 7 * 8 * (P + K))
    monkeypatch.setattr(nnguide, "PRODUCT_BYTES", 7 * 8 * len(getattr(detector, "guides_", [0])))
    torch.testing.assert_close(detector.score(split.features, split.logits), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("class_name", ["Mahalanobis", "RMD"])
def test_distances_multiplied_out_are_the_library_s(class_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One product with the precision for a row, and the scores of the library, which takes one for every class."""
    split, head = toy()
    tested = 3 * torch.randn(50, P)
    with monkeypatch.context() as without:
        without.setattr(pytorch_ood, "expand", lambda *arguments: None)
        plain = load_detector(f"pytorch_ood:{class_name.lower()}").detector.fit(split, head)
    fast = load_detector(f"pytorch_ood:{class_name.lower()}").detector.fit(split, head)
    assert not isinstance(plain.detector_._calc_gaussian_scores, Expanded)
    assert isinstance(fast.detector_._calc_gaussian_scores, Expanded)
    torch.testing.assert_close(fast.score(tested, head.logits(tested)), plain.score(tested, head.logits(tested)))


def test_distances_that_differ_from_the_library_s_are_not_used() -> None:
    class Mahalanobis:  # of a version to come, without its factor -1/2
        mu, precision = torch.randn(K, P), torch.eye(P)

        def _calc_gaussian_scores(self, features: torch.Tensor) -> torch.Tensor:
            return torch.cdist(features, self.mu) ** 2

    detector = Mahalanobis()
    expand(detector, torch.randn(9, P))
    assert not isinstance(detector._calc_gaussian_scores, Expanded)
