"""What other OOD sets would have chosen in a search: against the search made on them, in rows, tables and the page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin import Detector, DetectorSetup, Paper, evaluate
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.alternatives import ALTERNATIVES, MOST_ROWS, read_alternatives, thinned
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.metrics import auroc
from nci_plugin.report.tables import alternatives_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluation(golden: Any) -> Any:
    return evaluate(golden.head, golden.benchmark(), ["nci", "msp"], progress=False)


def searched_on(golden: Any, split: str) -> Any:
    """The search with another split as ``ood/val``."""
    benchmark: Benchmark = golden.benchmark()
    splits = {**benchmark.splits, "ood/val": benchmark.splits[split]}
    return evaluate(golden.head, replace(benchmark, splits=splits), ["nci"], progress=False)


def test_each_choice_is_that_of_a_search_on_the_set(golden: Any, evaluation: Any) -> None:
    (found,) = {id(row.provenance[ALTERNATIVES]): row for row in evaluation.results if row.detector == "nci"}.values()
    alternatives = read_alternatives(found.provenance)
    assert list(alternatives) == ["ood/val", "near/near", "far/far"]
    assert alternatives["ood/val"].values == found.hyperparameters
    for split, alternative in alternatives.items():
        again = searched_on(golden, split)
        assert again.results[0].hyperparameters == alternative.values
        scores = again.scores["nci"]  # of fewer than MOST_ROWS rows: all of them
        for group in ("near", "far"):
            expected = 100 * auroc(scores["id/test"], scores[f"{group}/{group}"])
            assert getattr(alternative, group) == pytest.approx(expected)


class FailsFar(Detector):
    """MLS times alpha, whose second value is the worse one and cannot score far-OOD."""

    name = "fails_far"
    paper = Paper("", "", "", 0, "")
    far: torch.Tensor

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if self.alpha == -2 and torch.equal(features[0], self.far):
            raise ValueError("no far-OOD")
        return self.alpha * logits.amax(dim=1)


def test_a_value_that_fails_on_a_test_set_is_said(
    golden: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark: Any = golden.benchmark()
    monkeypatch.setattr(FailsFar, "far", torch.as_tensor(benchmark.splits["far/far"].features[0]), raising=False)
    setup = DetectorSetup(FailsFar(), {"alpha": [1, -2]})
    done = evaluate(golden.head, benchmark, [setup], progress=False)
    assert not done.failures
    found = done.results[0]
    assert found.hyperparameters == {"alpha": 1}
    assert {each.values["alpha"] for each in read_alternatives(found.provenance).values()} == {1}
    (line,) = [record.getMessage() for record in caplog.records if "other OOD sets" in record.getMessage()]
    assert line == "what other OOD sets would have chosen is not known for {'alpha': -2}: no far-OOD"


def test_what_is_not_searched_has_none(evaluation: Any) -> None:
    rows = [row for row in evaluation.results if row.detector == "msp"]
    assert all(ALTERNATIVES not in row.provenance for row in rows)
    assert alternatives_table(rows) is None


def test_table(evaluation: Any) -> None:
    table = alternatives_table(evaluation.results)
    assert table is not None
    header, row = table.rows
    assert header == ["detector", "searched", "ood/val", "near/near", "far/far", "near AUROC", "far AUROC"]
    alternatives = read_alternatives(next(each for each in evaluation.results if each.detector == "nci").provenance)
    assert row[:5] == ["nci", "alpha", *(str(each.values["alpha"]) for each in alternatives.values())]
    far = [each.far for each in alternatives.values()]
    assert row[6] == f"{min(far):.2f} to {max(far):.2f}"


def test_networks_that_differ_stand_one_after_the_other(evaluation: Any) -> None:
    row = next(each for each in evaluation.results if each.detector == "nci")
    one = {"ood/val": {"values": {"alpha": 1}, "near": 80.0, "far": None}}
    other = {"ood/val": {"values": {"alpha": 2}, "near": 90.0, "far": None}}
    rows = [replace(row, seed=seed, provenance={ALTERNATIVES: record}) for seed, record in (("s0", one), ("s1", other))]
    table = alternatives_table(rows)
    assert table is not None
    assert table.rows[1] == ["nci", "alpha", "1 | 2", "85.00 to 85.00", "-"]


def test_a_search_that_tried_no_other_set_has_its_own_choice(evaluation: Any) -> None:
    """As a row of an earlier version: what ``ood/val`` chose is known, and nothing of the others."""
    rows = [row for row in evaluation.results if row.detector == "nci"]
    earlier = [
        replace(row, provenance={name: value for name, value in row.provenance.items() if name != ALTERNATIVES})
        for row in rows
    ]
    table = alternatives_table(earlier)
    assert table is not None
    assert table.rows[1] == ["nci", "alpha", str(rows[0].hyperparameters["alpha"]), "-", "-"]
    assert "-: only ood/val was tried" in table.text()
    together = alternatives_table([*rows, *(replace(row, detector="old") for row in earlier)])
    assert together is not None
    assert [len(row) for row in together.rows] == [7, 7, 7]
    assert together.rows[2] == ["old", *table.rows[1][1:3], "-", "-", "-", "-"]
    fixed = [replace(row, chosen_by="fixed") for row in earlier]
    assert alternatives_table(fixed) is None
    damaged = [replace(row, provenance={**row.provenance, "sweep": 3}) for row in earlier]
    assert alternatives_table(damaged) is None


@pytest.mark.parametrize(
    "record",
    [3, {"ood/val": 1}, {"ood/val": {}}, {"ood/val": {"values": {}, "near": "x", "far": 1.0}}, {"a": {"values": 3}}],
)
def test_damaged_records_are_refused(record: Any) -> None:
    with pytest.raises(PluginError, match="evaluate again"):
        read_alternatives({ALTERNATIVES: record})


def test_thinned_rows_are_evenly_spaced_over_shards() -> None:
    """The rows of shards of any sizes are those of the whole split."""
    sizes = [700, 1, 0, 1799]
    values = torch.arange(sum(sizes))[:, None].float()
    shards, start = [], 0
    for size in sizes:
        part = values[start : start + size]
        shards.append(Chunk(part, part, part[:, 0].long()))
        start += size
    rows = thinned(FeatureSplit(shards)).features[:, 0].numpy()
    assert np.array_equal(rows, np.arange(0, sum(sizes), 3))
    assert len(rows) <= MOST_ROWS
    few = FeatureSplit([Chunk(values[:5], values[:5], values[:5, 0].long())])
    assert len(thinned(few)) == 5
