"""Paper figures of collapse, of layers and of trainings: drawn from stored records alone, with their numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from command import command
from diagnosed import diagnosed
from geometry import imbalanced
from matplotlib.figure import Figure

from nci_plugin import PluginError, figure
from nci_plugin.diagnosis.explanation import explain
from nci_plugin.diagnosis.network import Diagnosis
from nci_plugin.diagnosis.record import StageRecord
from nci_plugin.dynamics.onset import CENSORED, ONSET, Onset
from nci_plugin.dynamics.trajectory import EpochRecord, TrajectoryFile
from nci_plugin.report.diagnosis_files import write_diagnosis, write_explanation
from nci_plugin.report.paper_figures import WIDTHS

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES = [
    StageRecord(
        f"net.{name}",
        {"num_features": 8.0, "nc1_quotient": nc1, "nearest_centre_accuracy": 0.9, "within_cosine": 0.5},
        {"near": {"nc1": 60.0, "nc2": auroc}, "far": {"nc1": 70.0}},
    )
    for name, nc1, auroc in (("first", 2.0, 51.0), ("second", 1.0, 52.0), ("last", 0.5, 53.0))
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The diagnoses of two networks, of which the second has other features."""
    path = tmp_path_factory.mktemp("results")
    records = []
    for seed, factor in (("s0", 1.0), ("s1", 2.0)):
        features, labels, head = imbalanced((20, 10, 5))
        stored = diagnosed(factor * features, labels, head)
        layers = [replace(stage, values={**stage.values, "nc1_quotient": factor}) for stage in STAGES]
        record = replace(stored.record, seed=seed, layers=layers)
        write_diagnosis(path, seed, Diagnosis(record, dict(stored.arrays)))
        records.append(record)
    write_explanation(path, explain(records))
    return path, records


def write_run(path, run, nc1, conditions, epochs=(1, 2, 3)):
    file = TrajectoryFile(path / "trajectory.jsonl", run, conditions)
    for epoch in epochs:
        auroc = {"nci": {"near": 80.0, "far": 90.0}, "msp": {"near": 50.0 + epoch, "far": 60.0}}
        file.add(EpochRecord(epoch, collapse={"nc1_quotient": nc1 / epoch}, train_loss=1 / epoch, auroc=auroc))


@pytest.fixture
def trained(tmp_path):
    for seed, nc1 in enumerate((1.0, 3.0)):
        run = f"r_s{seed}"
        write_run(tmp_path / run, run, nc1, {"architecture": "MLP", "seed": seed}, (1, 2, 3) if seed else (1, 2, 3, 4))
    onsets = [Onset("r_s0", ONSET, 2, 1, None), Onset("r_s1", CENSORED, 3, 2, None)]
    (tmp_path / "dynamics.json").write_text(json.dumps({"onsets": list(map(asdict, onsets))}))
    return tmp_path


def panels(drawn):
    return {axis.get_title(): axis for axis in drawn.axes if axis.get_title()}


def test_classes_have_the_mean_over_networks_of_their_stored_numbers(results):
    path, records = results
    nc1, pairs, nc3 = figure("collapse", path, size="page").axes
    variances = [record.collapse.class_variances for record in records]
    assert [bar.get_height() for bar in nc1.patches] == pytest.approx(np.mean(variances, axis=0))
    cosines = [record.collapse.nc3_cosines for record in records]
    assert [bar.get_height() for bar in nc3.patches] == pytest.approx(np.mean(cosines, axis=0))
    assert [1, 1] in [list(line.get_ydata()) for line in nc3.lines]
    assert sum(bar.get_height() for bar in pairs.patches) == 2 * 3
    assert [-0.5, -0.5] in [list(line.get_xdata()) for line in pairs.lines]  # the ETF of three classes
    assert nc1.get_title().startswith(f"NC1 = {records[0].collapse.nc1_quotient:.2g}")


def test_stages_have_mean_and_band(results):
    path, _ = results
    drawn = panels(figure("layers", path, detectors=["nc2"]))
    (line,) = drawn["NC1"].lines
    assert list(line.get_ydata()) == [1.5] * 3
    assert drawn["NC1"].collections[0].get_paths()[0].vertices[:, 1].max() == 2
    (line, _) = drawn["near AUROC (%)"].lines  # and chance
    assert (line.get_label(), list(line.get_ydata())) == ("NC2 score", [51.0, 52.0, 53.0])
    assert "far AUROC (%)" not in drawn  # no blank panel
    assert drawn["NCC accuracy (%)"].get_ylim()[1] <= 101


def test_trainings_have_the_mean_over_the_epochs_that_all_have(trained):
    drawn = panels(figure("dynamics", trained))
    line = drawn["NC1"].lines[0]
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata()) == pytest.approx([2.0, 1.0, 2 / 3])
    assert [list(line.get_xdata()) for line in drawn["NC1"].lines[1:]] == [[2, 2]]  # the onset that was observed
    assert [line.get_label() for line in drawn["near AUROC (%)"].lines[:2]] == ["NCI", "MSP"]
    one = figure("dynamics", trained / "r_s0")
    assert list(panels(one)["NC1"].lines[0].get_xdata()) == [1, 2, 3, 4]
    assert one.caption == "r_s0; lines: onsets of collapse"


@pytest.mark.parametrize("size", WIDTHS)
def test_size_fonts_and_text(results, trained, size, tmp_path):
    for kind, path in (("collapse", results[0]), ("layers", results[0]), ("dynamics", trained)):
        drawn = figure(kind, path, size=size)
        assert isinstance(drawn, Figure)
        assert drawn.get_figwidth() == WIDTHS[size]
        assert drawn._suptitle is None
        assert {axis.title.get_fontsize() for axis in drawn.axes} == {14.0 if size == "slide" else 8.0}
        drawn.savefig(tmp_path / "f.svg")
        assert "<text" in (tmp_path / "f.svg").read_text(encoding="utf-8")
        inside = drawn.bbox
        for axis in drawn.axes:
            box = axis.get_tightbbox()
            if box is not None:  # None: of an empty cell
                assert box.x0 >= inside.x0 - 1, (kind, axis.get_title())
                assert box.x1 <= inside.x1 + 1, (kind, axis.get_title())


@pytest.mark.parametrize("kind", ["collapse", "layers"])
def test_the_command_draws_the_same(results, kind, tmp_path):
    path, _ = results
    code, out, err = command(["figure", kind, str(path), "--format", "svg", "--output", str(tmp_path / "a.svg")])
    assert (code, err) == (0, "")
    assert "mean" in out
    figure(kind, path).savefig(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()


def test_what_cannot_be_drawn_is_refused(results, trained, tmp_path):
    path, _ = results
    for kind, where, options, message in (
        ("colapse", path, {}, "collapse"),
        ("collapse", tmp_path / "none", {}, "have no diagnosis; run nci-ood diagnose first"),
        ("collapse", path, {"detectors": ["nci"]}, "shows no detectors"),
        ("layers", path, {"detectors": ["nc9"]}, "unknown score of these stages 'nc9'"),
        ("layers", path, {"size": "poster"}, "size"),
        ("dynamics", path, {}, "has no trajectory.jsonl at or below it"),
        ("dynamics", trained, {"detectors": ["ncj"]}, "unknown detector of this run 'ncj'"),
    ):
        with pytest.raises(PluginError, match=message):
            figure(kind, where, **options)
    write_run(trained / "other", "other", 1.0, {"architecture": "ResNet", "seed": 0})
    with pytest.raises(PluginError, match="3 runs differ in more than their seed"):
        figure("dynamics", trained)
    (trained / "dynamics.json").write_text('{"onsets": 3}')
    with pytest.raises(PluginError, match="cannot be read"):
        figure("dynamics", trained / "r_s0")


def test_stages_that_were_not_measured_are_refused(results, tmp_path):
    _, records = results
    write_diagnosis(tmp_path, "s0", Diagnosis(replace(records[0], layers=None), {}))
    write_explanation(tmp_path, explain(records[:1]))
    with pytest.raises(PluginError, match="run nci-ood diagnose with --layers"):
        figure("layers", tmp_path)


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_the_tables_of_a_diagnosis_are_written_as_those_of_results(results, form):
    path, records = results
    for of, word in (("collapse", "NC1"), ("ood", "OrthoDev"), ("layers", "first"), ("classes", "class by class")):
        code, out, err = command(["table", str(path), "--of", of, "--format", form])
        assert (code, err) == (0, "")
        assert word in out
    code, out, _ = command(["table", str(path), "--of", "collapse", "--format", form])
    assert f"{records[1].collapse.nc1_quotient:.4g}" in out
    code, _, err = command(["table", str(path), "--of", "collapse", "--format", form, "--wide"])
    assert (code, err.count("\n")) == (2, 1)
    assert "--wide and --data-sets are about results" in err


def test_tables_that_are_not_there_are_refused(results, tmp_path):
    assert "run nci-ood diagnose first" in command(["table", str(tmp_path), "--of", "collapse"])[2]
    write_diagnosis(tmp_path, "s0", Diagnosis(replace(results[1][0], layers=None), {}))
    write_explanation(tmp_path, explain(results[1][:1]))
    assert "run nci-ood diagnose with --layers" in command(["table", str(tmp_path), "--of", "layers"])[2]
