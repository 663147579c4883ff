"""A collapse metric that is registered stands in every table, file, figure and page; older files lack it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from geometry import imbalanced
from planted import RULE, planted

from nci_plugin.checks import PluginError
from nci_plugin.collapse import METRICS, CollapseMetrics, Undefined, measure, metric
from nci_plugin.collapse.registry import EPOCHS, STAGES, of_training
from nci_plugin.diagnosis.explanation import explain
from nci_plugin.diagnosis.record import DiagnosisRecord, SplitRecord, StageRecord
from nci_plugin.dynamics.analysis import analyse
from nci_plugin.dynamics.measure import collapse_numbers
from nci_plugin.dynamics.trajectory import TrajectoryFile, read_trajectory
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.report import diagnosis_figures, diagnosis_tables, dynamics_figures, dynamics_tables
from nci_plugin.report.diagnosis_files import Stored

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def spread() -> Iterator[str]:
    """A metric that is defined nowhere in the package, as a file of its own in collapse/ would."""

    @metric("NC1 spread, made", "spread", of="statistics", ideal=0, along=(EPOCHS, STAGES))
    def made_spread(statistics: Any) -> float:
        """Tr(Sigma_W), from 0 (collapse) up (Nobody 2026)."""
        return float(statistics.within_scatter.trace())

    @metric("made width", of="raw", per_class=True)
    def made_widths(rows: torch.Tensor) -> torch.Tensor:
        """Largest coordinate of each mean (Nobody 2026)."""
        return rows.amax(dim=1)

    @metric("NC9 far, made", "far", of="split statistics", ideal=0)
    def made_far(split: FeatureSplit, statistics: Any) -> float:
        """No length of the split's mean (Nobody 2026)."""
        raise Undefined("collapse: nothing is far")

    yield "made_spread"
    for name in ("made_spread", "made_widths", "made_far"):
        del METRICS[name]


def record_of(collapse: CollapseMetrics) -> DiagnosisRecord:
    split = SplitRecord(9, {"ortho_dev": 0.5, "made_far": None}, None, {})
    values = {"num_features": 7, **collapse.values, "nearest_centre_accuracy": 0.5}
    stage = StageRecord("conv", values, {"near": {"nc1": 60.0}})
    parts: Any = {"held_out": {"held_out_cdnv": {"id/val": 0.25}}, "splits": {"near/a": split}, "auroc": {}}
    return DiagnosisRecord(
        "made", "", collapse, collapse, nc4={"train": None, "id/val": None}, train_from="x", layers=[stage], **parts
    )


def test_a_new_metric_is_in_the_diagnosis(spread: str, tmp_path: Path) -> None:
    features, labels, head = imbalanced()
    statistics = ClassStatistics(4, 7).update(features, labels)
    metrics = measure(statistics, head)
    value = float(statistics.within_scatter.trace())
    assert metrics.made_spread == value
    saved = json.loads(json.dumps(record_of(metrics).to_dict(), allow_nan=False))
    assert saved["collapse"]["made_spread"] == value
    record = DiagnosisRecord.from_dict(saved)
    shown = {row[0]: row[1:] for row in diagnosis_tables.collapse_table(["one"], [record]).rows}
    assert shown["NC1 spread, made"] == ["0", f"{value:.4g}"]
    header, *rows = diagnosis_tables.class_table("one", record).rows
    assert [row[header.index("made width")] for row in rows] == [f"{v:.4g}" for v in metrics.made_widths]
    assert diagnosis_tables.ood_table([record]).rows[0][2:4] == ["OrthoDev", "far"]
    layers = diagnosis_tables.layers_table([record])
    assert layers is not None
    assert layers.rows[1][layers.rows[0].index("spread")] == f"{value:.4g}"
    figure = diagnosis_figures.layer_figure(Stored("network", record, {}, {}))
    assert figure is not None
    (panel,) = (axis for axis in figure.axes if axis.get_title() == "NC1")
    assert {"NC1", "CDNV", "spread"} <= {line.get_label() for line in panel.lines}


def test_a_new_metric_is_followed_along_training(spread: str, tmp_path: Path) -> None:
    features, labels, head = imbalanced()
    numbers = collapse_numbers(ClassStatistics(4, 7).update(features, labels), head, None)
    assert numbers[spread] is not None
    assert numbers["nc4_train"] is None  # without the features
    run = planted("run", 100)
    records = [
        dataclasses.replace(
            each, collapse={**each.collapse, spread: each.epoch}, auroc={"nci": {"near": 90.0 - 1 / each.epoch}}
        )
        for each in run.records
    ]
    file = TrajectoryFile(tmp_path / "trajectory.jsonl", run.run, run.conditions)
    for each in records[:8]:
        file.add(each)
    read = read_trajectory(tmp_path)
    assert read.series(spread).tolist() == [each.epoch for each in records[:8]]
    header, first, *_ = dynamics_tables.epoch_table(read).rows
    assert first[header.index("spread")] == "10"
    analysis = analyse([read], RULE)
    (found,) = (each for each in analysis.correlations if each.metric == spread)
    assert found.rho == pytest.approx(1)
    (table,) = dynamics_tables.correlation_tables(analysis)
    assert ["spread", "+1.00"] in table.rows
    collapse = dynamics_figures.collapse_figure(read, analysis.onsets["run"], RULE)
    assert any(line.get_label() == "spread" for axis in collapse.axes for line in axis.lines)
    figure = dynamics_figures.correlation_figure(analysis)
    assert figure is not None
    assert "spread" in [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_a_new_metric_is_in_the_reference(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    text = "\n".join(importlib.import_module("generated").PAGES["collapse_metrics"]())
    assert "| `made_spread` | NC1 spread, made | 0 | smaller |" in text
    assert "(Nobody 2026)" in text


def test_the_example_of_the_docs_runs() -> None:
    text = (ROOT / "docs" / "howto" / "diagnose.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "@metric" in block)
    features, labels, head = imbalanced()
    try:
        exec(compile(code, "diagnose.md", "exec"), {})
        metrics = measure(ClassStatistics(4, 7).update(features, labels), head)
    finally:
        METRICS.pop("total_variance", None)
    assert metrics.total_variance == pytest.approx(75 * float(metrics.nc1_quotient) * between(metrics))


def between(metrics: CollapseMetrics) -> float:
    """Tr(Sigma_B) of the class means."""
    return sum(norm**2 for norm in metrics.nc2_centred_norms) / len(metrics.classes)


def test_names_are_taken_once_and_every_metric_names_its_paper_and_range() -> None:
    with pytest.raises(ValueError, match="'nc1_quotient' is taken by nc1_quotient"):
        metric("NC1", of="statistics", name="nc1_quotient")(lambda statistics: 0.0)
    for each in METRICS.values():
        assert (each.function.__doc__ or "").strip(), each.name
        assert each.larger <= (each.ideal is not None), each.name


def test_a_record_of_before_a_metric_is_read_with_none() -> None:
    """Records lose a metric that they were written without, and keep one that this version does not know."""
    features, labels, head = imbalanced()
    saved = record_of(measure(ClassStatistics(4, 7).update(features, labels), head)).to_dict()
    del saved["collapse"]["effective_rank_means"], saved["layers"], saved["notes"], saved["provenance"]
    saved["collapse"]["of_another_version"] = 3.0
    record = DiagnosisRecord.from_dict(json.loads(json.dumps(saved)))
    assert record.collapse.effective_rank_means is None
    assert record.collapse.of_another_version == 3.0
    assert (record.layers, record.notes) == (None, {})
    assert "effective rank of centred means" in diagnosis_tables.collapse_table(["one"], [record]).text()
    del saved["splits"]
    with pytest.raises(PluginError, match="KeyError: 'splits'"):
        DiagnosisRecord.from_dict(saved)
    with pytest.raises(AttributeError, match="has no 'nc9'"):
        _ = record.collapse.nc9


def test_a_diagnosis_of_before_the_registry_is_read_and_written_alike() -> None:
    """Its numbers are rounded; it holds no provenance, and no note where no class is absent."""
    saved = json.loads((ROOT / "tests" / "earlier_diagnosis.json").read_text(encoding="utf-8"))
    record = DiagnosisRecord.from_dict(saved)
    later = dict.fromkeys(name for name in record.collapse.values if name not in saved["collapse"])
    assert {"nc2_mean_cosine", "mean_class_distance", "gof_mean_abs_cosine_weights"} <= later.keys()
    expected = {name: {**later, **saved[name]} for name in ("collapse", "collapse_sample_mean")}
    assert json.loads(json.dumps(record.to_dict())) == {**saved, **expected, "provenance": {}}
    rows = diagnosis_tables.collapse_table(["one"], [record]).rows
    (values,) = (row[2:] for row in rows if row[0] == "NC3 self-duality")
    assert values == [f"{saved['collapse']['nc3_self_duality']:.4g}"]
    assert len(diagnosis_tables.all_tables(["one"], [record])) == 3
    assert len(diagnosis_tables.class_table("one", record).rows) == 5
    assert "NC4: nearest-class-centre agreement on train is" in "".join(explain([record]).sentences)


def test_the_registry_is_the_list_of_fields() -> None:
    features, labels, head = imbalanced()
    metrics = measure(ClassStatistics(4, 7).update(features, labels), head)
    expected = [each.name for each in (*of_training(), *of_training(per_class=True)) if not each.of_features]
    assert list(metrics.values) == expected
