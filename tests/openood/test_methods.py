"""The table of what can be done with OpenOOD's methods, derived by trying each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from few_digits import few_digits, fit_head
from openood.evaluation_api.postprocessor import postprocessors
from openood.networks import ResNet18_32x32

from nci_plugin.adapters.openood import methods
from nci_plugin.adapters.openood.checkout import import_openood
from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions

COUNTS = {TRAIN: 72, VALIDATION: 12, TEST: 12, OOD_VALIDATION: 12, "csid": 6, "near": 6, "far": 6}
OTHER_CONFIG = {
    "residual": {"postprocessor_args": {"dim": 256}},  # its own leaves nothing of the 512 features
    "nnguide": {"postprocessor_args": {"K": 5, "alpha": 0.5}},  # its own are for more training images
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return few_digits(tmp_path_factory.mktemp("data"), COUNTS)


@pytest.fixture(scope="module")
def bank(benchmark: Benchmark, one_thread: None) -> FeatureBank:
    torch.manual_seed(0)
    network = ResNet18_32x32(num_classes=6)
    # More batches than one: some methods use whole batches for one thing and the rest for another.
    return extract(fit_head(network, network.fc, benchmark), benchmark, options=ExtractionOptions("cpu", 16))


def works(method: str, bank: FeatureBank, benchmark: Benchmark, needs: methods.Needs) -> bool:
    """Whether OpenOOD's method gives scores, with the first value of each list that its YAML searches."""
    try:
        config = dict(methods.read_config(import_openood(), method))
    except PluginError:
        return False
    if config.get("APS_mode"):
        config["postprocessor_sweep"] = {name: values[:1] for name, values in config["postprocessor_sweep"].items()}
    config.update(OTHER_CONFIG.get(method, {}))

    class Tried(methods.OpenOODMethod):
        @property
        def needs(self) -> methods.Needs:
            return needs

    return evaluate_bank(bank, benchmark, [Tried(method, config)]).failures == {}


def test_every_method_of_openood_is_in_the_table() -> None:
    openoods = [name for name, cls in postprocessors.items() if cls.__module__.startswith("openood.")]
    assert set(methods.METHODS) == {*openoods, "nci"} - {"nci_builtin"}  # where another test has registered the plugin


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_table_says_what_works(method: str, bank: FeatureBank, benchmark: Benchmark) -> None:
    needs = methods.METHODS[method]
    replayed = works(method, bank, benchmark, methods.Needs())
    assert replayed == (not needs.excluded and not needs.images)
    if replayed:
        without_training = {name: split for name, split in bank.splits.items() if name != TRAIN}
        assert works(method, replace(bank, splits=without_training), benchmark, methods.Needs()) != needs.training
        return
    assert works(method, bank, benchmark, methods.Needs(images=True)) == (not needs.excluded)
    if needs.images:
        assert bank.images is not None
        images = {name: split for name, split in bank.images.splits.items() if name != TRAIN}
        without: Any = replace(bank, images=replace(bank.images, splits=images))
        assert works(method, without, benchmark, methods.Needs(images=True)) != needs.training
