"""Replay against OpenOOD's evaluator on its ViT, of 32x32 images and two layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_digits import few_digits, fit_head
from openood.networks import ViT_B_16
from openood_evaluator import evaluate

from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions

FAIL_IN_OPENOOD = {"nci", "fdbd", "vra"}
"""They read ``net.fc``, which its ViT does not have."""
WIDTH = 64


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return few_digits(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def network(benchmark: Benchmark, one_thread: None) -> torch.nn.Module:
    torch.manual_seed(0)
    network = ViT_B_16(32, 8, num_layers=2, num_heads=4, hidden_dim=WIDTH, mlp_dim=2 * WIDTH, num_classes=6)
    return fit_head(network, network.heads[0], benchmark)


@pytest.fixture(scope="module")
def bank(network: torch.nn.Module, benchmark: Benchmark) -> FeatureBank:
    return extract(network, benchmark, options=ExtractionOptions("cpu"))


@pytest.mark.parametrize("name", methods.names())
def test_replay_is_openoods_evaluator(
    name: str, bank: FeatureBank, network: torch.nn.Module, benchmark: Benchmark
) -> None:
    (method,) = methods.load(name)
    ours = evaluate_bank(bank, benchmark, [method])
    if method.method in FAIL_IN_OPENOOD:
        with pytest.raises(AttributeError, match="fc"):
            evaluate(network, benchmark, method.method)
        assert ours.failures == {}
        return
    if name in ("openood:vim", "openood:residual"):  # no value in their YAML is below this network's 64 features
        assert set(ours.failures) == {name}
        return
    assert ours.failures == {}
    theirs = evaluate(network, benchmark, method.method)
    for split, expected in theirs.scores.items():
        np.testing.assert_array_equal(ours.scores[name][split], expected, err_msg=split)
