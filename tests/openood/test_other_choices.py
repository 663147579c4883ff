"""What other OOD sets would have chosen for OpenOOD's methods: against the search made on them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openood.postprocessors import EBOPostprocessor
from tiny import Tiny

from nci_plugin import evaluate
from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation.alternatives import read_alternatives
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.metrics import auroc
from nci_plugin.report.tables import alternatives_table

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCHED = ("ash", "ebo", "gen", "knn", "nci", "react", "relation", "scale", "vra")


@pytest.fixture(scope="module")
def bank(golden: Any) -> FeatureBank:
    benchmark = golden.benchmark()
    return extract(golden.head, benchmark, options=ExtractionOptions("cpu", 100), splits=open_splits(benchmark))


@pytest.mark.parametrize("name", SEARCHED)
def test_each_choice_is_that_of_a_search_on_the_set(name: str, golden: Any, bank: FeatureBank) -> None:
    (method,) = methods.load(f"openood:{name}")
    found = evaluate_bank(bank, golden.benchmark(), [method]).results[0]
    alternatives = read_alternatives(found.provenance)
    assert list(alternatives) == ["ood/val", "near/near", "far/far"]
    for split, alternative in alternatives.items():
        swapped = replace(bank, splits={**bank.splits, "ood/val": bank.splits[split]})
        again = evaluate_bank(swapped, golden.benchmark(), [method])
        assert {key: again.results[0].hyperparameters[key] for key in method.sweep} == alternative.values
        scores = again.scores[method.name]  # of fewer rows than alternatives take: all of them
        for group in ("near", "far"):
            expected = 100 * auroc(scores["id/test"], scores[f"{group}/{group}"])
            assert getattr(alternative, group) == pytest.approx(expected)


def test_a_method_that_draws_goes_on_as_without(
    golden: Any, bank: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it draws for the sets of the others is given back, so that its scores stay those of OpenOOD's evaluator."""
    (method,) = methods.load("openood:ebo")
    postprocess = EBOPostprocessor.postprocess

    def noisy(self: Any, net: Any, data: Any) -> Any:
        predicted, confidence = postprocess(self, net, data)
        return predicted, confidence + torch.randn(len(confidence)) + np.random.rand() + random.random()  # noqa: NPY002

    monkeypatch.setattr(EBOPostprocessor, "postprocess", noisy)
    told = evaluate_bank(bank, golden.benchmark(), [method])
    assert read_alternatives(told.results[0].provenance)
    monkeypatch.setattr("nci_plugin.evaluation.alternatives.Alternatives.add", lambda *_: None)
    untold = evaluate_bank(bank, golden.benchmark(), [method])
    assert not read_alternatives(untold.results[0].provenance)
    assert told.results[0].chosen_by == untold.results[0].chosen_by
    for split, scores in told.scores[method.name].items():
        np.testing.assert_array_equal(scores, untold.scores[method.name][split])


def test_a_search_over_images_tries_no_other_set_and_says_so(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    names = ["openood:ebo", "openood:odin"]
    found = evaluate(tiny.loaded(), load_benchmark(str(tiny.yaml)), names, data_root=tiny.data, device="cpu")
    table = alternatives_table(found.results)
    assert table is not None
    by_detector = {row[0]: row for row in table.rows}
    assert by_detector["openood:odin"][1] == "temperature, noise"
    assert by_detector["openood:odin"][2] != "-"
    assert set(by_detector["openood:odin"][3:]) == {"-"}
    assert "-" not in by_detector["openood:ebo"]
    assert "passes the images again" in table.text()
