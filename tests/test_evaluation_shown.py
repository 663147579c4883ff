"""An Evaluation as a data frame, as a table and as a figure."""

from __future__ import annotations

import pytest
import torch

from nci_plugin import Benchmark, Features, PluginError, evaluate


@pytest.fixture(scope="module")
def evaluation():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.eye(3, 8) * 4
    train, test = (centres[labels] + torch.randn(60, 8, generator=generator) for _ in range(2))
    near, other = (torch.randn(40, 8, generator=generator) + shift for shift in (1, 0))
    benchmark = Benchmark.from_splits(
        "b", 3, train=Features(train, labels), test=Features(test, labels),
        near={"a_b": Features(near), "c": Features(other)}, far={"d|e": Features(other * 3)},
    )  # fmt: skip
    head = torch.nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(centres)
        head.bias.zero_()
    return evaluate(head, benchmark, ["msp", "nci", "mds_pp"], progress=False)


def test_a_frame_has_every_result(evaluation) -> None:
    frame = evaluation.to_frame()
    assert len(frame) == len(evaluation.results) == 3 * 5
    row = frame[(frame["detector"] == "nci") & (frame["dataset"] == "c")].iloc[0]
    (result,) = (each for each in evaluation.results if (each.detector, each.dataset) == ("nci", "c"))
    assert (row["auroc"], row["fpr95"], row["n_ood"]) == (result.auroc, result.fpr95, 40)


def test_tables_hold_the_numbers_best_first(evaluation) -> None:
    lines = evaluation.table().splitlines()
    assert lines[0] == r"| AUROC (%) | a_b | c | nearood | d\|e |"
    means = [sum(map(float, line.split(" | ")[1:3])) for line in (each.strip("| ") for each in lines[2:])]
    assert len(means) == 3
    values = {result.dataset: result.auroc for result in evaluation.results if result.detector == "msp"}
    (msp,) = (line for line in lines if line.startswith("| msp "))
    assert f"{values['nearood']:.2f}" in msp
    latex = evaluation.table("fpr95", format="latex")
    assert r"FPR@95 (\%) & a\_b & c & nearood & d|e \\" in latex
    assert latex.count("\n") == 8
    for arguments, message in ((("auroc", "fsood"), "none in the setting"), (("aurok",), "did you mean 'auroc'")):
        with pytest.raises(PluginError, match=message):
            evaluation.table(*arguments)
    with pytest.raises(PluginError, match="format"):
        evaluation.table(format="html")


def test_a_figure_and_what_is_printed(evaluation) -> None:
    axes = evaluation.plot().axes[0]
    assert {text.get_text() for text in axes.get_yticklabels()} == {"msp", "nci", "mds_pp"}
    assert repr(evaluation) == "Evaluation(3 detectors, OOD sets: a_b, c, d|e)"
    assert evaluation._repr_markdown_() == evaluation.table()
