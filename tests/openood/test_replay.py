"""Replay against OpenOOD's own evaluator on the same images: scores, hyper-parameters and tables, on its ResNet-18.

With all images of the benchmark: ``python scripts/bench/replay.py``.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from few_digits import few_digits, fit_head
from openood.networks import ResNet18_32x32
from openood.postprocessors.info import num_classes_dict
from openood_evaluator import evaluate

from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.evaluation.results import METRICS
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions

OTHER_CONFIG = {
    # OpenOOD's own values are not below the 512 features of its ResNet-18; see the tests of these two.
    "vim": {"postprocessor_sweep": {"dim_list": [256, 400]}},
    "residual": {"postprocessor_args": {"dim": 256}},
    # Some of many values: OpenOOD passes the images again for each.
    "gen": {"postprocessor_sweep": {"gamma_list": [0.01, 0.1], "M_list": [3, 6]}},
    "vra": {"postprocessor_sweep": {"percentile_high_list": [90, 99], "percentile_low_list": [5]}},
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return few_digits(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def network(benchmark: Benchmark, one_thread: None) -> torch.nn.Module:
    torch.manual_seed(0)
    network = ResNet18_32x32(num_classes=6)
    return fit_head(network, network.fc, benchmark)


@pytest.fixture(scope="module")
def bank(network: torch.nn.Module, benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> FeatureBank:
    return extract(network, benchmark, options=ExtractionOptions("cpu", store=tmp_path_factory.mktemp("features")))


@pytest.fixture(scope="module")
def config_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenOOD's YAML files, some of them with other values."""
    root = tmp_path_factory.mktemp("configs")
    (root / "postprocessors").mkdir()
    for name in methods.names():
        (found,) = methods.load(name)
        config = {**found.config, **OTHER_CONFIG.get(found.method, {})}
        path = root / "postprocessors" / f"{found.method}.yml"
        path.write_text(yaml.safe_dump({"postprocessor": {"APS_mode": False, **config}}, sort_keys=False))
    return root


def load(name: str) -> methods.OpenOODMethod:
    (found,) = methods.load(name)
    return replace(found, config={**found.config, **OTHER_CONFIG.get(found.method, {})})


def test_at_least_twenty_methods_are_replayed() -> None:
    assert len(methods.names()) >= 20


@pytest.mark.parametrize("name", methods.names())
def test_replay_is_openoods_evaluator(
    name: str, bank: FeatureBank, network: torch.nn.Module, benchmark: Benchmark, config_root: Path
) -> None:
    method = load(name)
    ours = evaluate_bank(bank, benchmark, [method])
    assert ours.failures == {}
    theirs = evaluate(network, benchmark, method.method, config_root=config_root)

    assert set(ours.scores[name]) == set(theirs.scores)
    for split, expected in theirs.scores.items():
        assert ours.scores[name][split].dtype == expected.dtype
        np.testing.assert_array_equal(ours.scores[name][split], expected, err_msg=split)
    if theirs.hyperparameters is not None:
        chosen = [ours.results[0].hyperparameters[key] for key in method.sweep]
        assert chosen == (theirs.hyperparameters if len(chosen) > 1 else [theirs.hyperparameters])
    for result in ours.results:
        row = theirs.tables[result.setting].loc[result.dataset]
        for field, column in METRICS.items():
            assert getattr(result, field) == pytest.approx(row[column], abs=1e-9), (result.dataset, column)


def test_vim_skips_the_values_that_make_openood_fail(bank: FeatureBank, benchmark: Benchmark) -> None:
    """Its YAML also tries 1000 dimensions, of 512: a division by zero, at which OpenOOD's evaluator stops."""
    evaluation = evaluate_bank(bank, benchmark, methods.load("openood:vim"))
    assert evaluation.failures == {}
    assert evaluation.results[0].hyperparameters == {"dim": 256}
    assert "1 more cannot be used here" in evaluation.results[0].chosen_by


def test_residual_with_all_dimensions_is_named(bank: FeatureBank, benchmark: Benchmark) -> None:
    """Its YAML leaves no dimension of 512, so every sample scores 0; OpenOOD's table then says 50 %."""
    evaluation = evaluate_bank(bank, benchmark, methods.load("openood:residual"))
    assert evaluation.results == []
    assert "gave every sample the same score with {'dim': 512}" in evaluation.failures["openood:residual"]


def test_nothing_is_left_changed(bank: FeatureBank, benchmark: Benchmark) -> None:
    before = torch.Tensor.cuda, torch.load, torch.cuda.FloatTensor, dict(num_classes_dict)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert evaluate_bank(bank, benchmark, methods.load("openood:cfood")).failures == {}
    assert before == (torch.Tensor.cuda, torch.load, torch.cuda.FloatTensor, dict(num_classes_dict))
    assert states[0].equal(torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()
