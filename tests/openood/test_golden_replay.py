"""All 22 methods of the golden vectors, replayed from their features: scores, hyper-parameters and tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.detectors import registry
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.evaluation.results import METRICS
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.extract import extract
from nci_plugin.features.fingerprint import features_digest
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows

BATCH_SIZE = 100
OTHER_CONFIG = {"vim": {"postprocessor_sweep": {"dim_list": [12, 24]}}, "residual": {"postprocessor_args": {"dim": 24}}}
"""OpenOOD's own values are for wider features than the 48 of these vectors."""
TOLERANCE = {"mds": 1e-4, "rmds": 1e-3, "vim": 1e-3, "residual": 1e-3, "openmax": 1e-4}
"""Relative to the largest score: these decompose float32 matrices or fit tails, in other bits with other libraries."""


@pytest.fixture(scope="module")
def bank(golden: Any) -> FeatureBank:
    benchmark = golden.benchmark()
    bank = extract(golden.head, benchmark, options=ExtractionOptions("cpu", BATCH_SIZE), splits=open_splits(benchmark))
    assert bank.batch_size == BATCH_SIZE
    return bank


def method(name: str) -> methods.OpenOODMethod:
    (found,) = methods.load(f"openood:{name}")
    return replace(found, config={**found.config, **OTHER_CONFIG.get(name, {})})


def test_all_methods_of_the_vectors_are_tested(golden: Any) -> None:
    assert len(golden.tables) == 22
    assert set(golden.tables) <= {name.removeprefix(methods.PREFIX) for name in methods.names()}


@pytest.mark.parametrize("name", ["mds", "rmds"])
def test_mahalanobis_plus_plus_is_openoods_on_features_of_length_1(name: str, golden: Any, bank: FeatureBank) -> None:
    unit = {
        split: FeatureSplit.of(unit_rows(each.features).float(), each.logits, each.labels)
        for split, each in bank.splits.items()
    }
    theirs = evaluate_bank(replace(bank, splits=unit), golden.benchmark(), [method(name)])
    train = unit["id/train"]
    statistics = ClassStatistics(golden.head.num_classes, train.num_features).update(train.features, train.labels)
    detector = registry.create(f"{name}_pp").fit(statistics, golden.head)
    for split, expected in theirs.scores[f"openood:{name}"].items():
        each = bank.splits[split]
        got = detector.score(each.features, each.logits)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE[name] * np.abs(expected).max(), rtol=0)


def names() -> list[str]:
    return [name.removeprefix(methods.PREFIX) for name in methods.names()]


@pytest.mark.parametrize("name", names())
def test_replay_reproduces_the_vectors(name: str, golden: Any, bank: FeatureBank) -> None:
    if name not in golden.tables:
        pytest.skip(f"the golden vectors do not have {name}")
    before = features_digest(bank), bank.splits["id/train"].features.clone()
    evaluation = evaluate_bank(bank, golden.benchmark(), [method(name)])
    assert evaluation.failures == {}

    scores = evaluation.scores[f"openood:{name}"]
    for short, split in golden.SPLITS.items():
        if f"scores/{name}/{short}" in golden.arrays:
            expected = golden.arrays[f"scores/{name}/{short}"].reshape(-1)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(scores[split], expected, atol=TOLERANCE.get(name, 1e-5) * scale, rtol=0)

    chosen = golden.tables[name]["hyperparam"]
    if chosen is not None:
        searched = evaluation.results[0].provenance["sweep"]
        assert [evaluation.results[0].hyperparameters[key] for key in searched] == np.atleast_1d(chosen).tolist()
    for result in evaluation.results:
        expected_row = golden.tables[name][result.setting][result.dataset]
        for field, column in METRICS.items():
            tolerance = 0.01 if name in TOLERANCE else 1e-6  # in percent
            assert getattr(result, field) == pytest.approx(expected_row[column], abs=tolerance), (name, column)

    assert features_digest(bank) == before[0]
    assert bank.splits["id/train"].features.equal(before[1])
