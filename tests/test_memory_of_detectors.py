"""What a detector takes is bounded, or known before it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nci_plugin.adapters import pytorch_ood
from nci_plugin.checks import PluginError
from nci_plugin.config import load_detector
from nci_plugin.detectors import nnguide, registry
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
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
