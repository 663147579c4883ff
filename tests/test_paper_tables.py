"""Tables for papers: the same numbers in every format, bold by ranks and not by digits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from result_rows import SEEDS, rows_of

from nci_plugin.checks import PluginError
from nci_plugin.evaluation.run import Run
from nci_plugin.report.paper_tables import FORMS, paper_table, written
from nci_plugin.report.tables import Table, texts

RANKS = {
    "near": {"nci": "1-2", "feature_norm": "1-2", "msp": "3"},
    "far": {"msp": "1", "nci": "2", "feature_norm": "3"},
}


def results():
    near = {"nci": 90.0, "feature_norm": 89.0, "msp": 70.0}
    far = {"nci": 80.0, "feature_norm": 70.0, "msp": 95.0}
    return [row for seed in SEEDS for name in near for row in rows_of(name, near[name], far[name], seed)]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_has_the_numbers_of_the_others(form):
    text = paper_table(results(), "ood", RANKS, form)
    for number in ("90.00", "89.00", "70.00", "80.00", "95.00", "30.00"):
        assert number in text
    assert len(re.findall(r"\b\d+\.\d\d", text)) == 3 * 4 * 2 + 2  # mean and std, and of the accuracy


def test_ties_with_the_best_are_bold_and_other_metrics_are_not():
    lines = paper_table(results(), "ood", RANKS, "markdown").splitlines()
    assert lines[0] == "| detector | near AUROC | near FPR@95 | far AUROC | far FPR@95 |"
    assert lines[2] == "| NCI | **90.00 ± 0.00** | 30.00 ± 0.00 | 80.00 ± 0.00 | 30.00 ± 0.00 |"
    assert lines[3] == "| Feature norm | **89.00 ± 0.00** | 30.00 ± 0.00 | 70.00 ± 0.00 | 30.00 ± 0.00 |"
    assert lines[4] == "| MSP | 70.00 ± 0.00 | 30.00 ± 0.00 | **95.00 ± 0.00** | 30.00 ± 0.00 |"
    assert lines[-1].endswith("near: cifar100, tin; far: mnist; bold: no detector has a better AUROC in this column by"
                              " more than chance (DeLong and Holm, 5 %)")  # fmt: skip


@pytest.mark.parametrize(("form", "mark"), [("markdown", "**"), ("latex", "textbf"), ("text", "*")])
def test_without_ranks_nothing_is_marked(form, mark):
    assert mark in paper_table(results(), "ood", RANKS, form)
    assert mark not in paper_table(results(), "ood", {}, form)


def test_latex_is_escaped():
    rows = [*rows_of("my_own", seed="", near_sets=("set_1", "50%"))]
    text = paper_table(rows, "ood", {}, "latex", by_data_set=True)
    assert r"my\_own & 90.00 & 30.00" in text
    assert r"\multicolumn{2}{c}{near/set\_1} & \multicolumn{2}{c}{near/50\%}" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}\cmidrule(lr){8-9}" in text
    assert text.count("{") == text.count("}")


def test_stars_do_not_shift_the_columns():
    lines = [
        line for line in paper_table(results(), "ood", RANKS, "text").splitlines() if re.match(r"(nci|msp) ", line)
    ]
    assert len({line.index("30.00") for line in lines}) == 1


def test_a_detector_without_rows_is_refused():
    run = Run(Path("results"), results())
    with pytest.raises(PluginError, match="unknown detector of these results 'msq'"):
        run.rows(["msq"])
    assert {row.detector for row in run.rows(["msp"])} == {"msp"}


def test_any_other_table_is_written_in_every_format():
    table = Table("of 5 %", [["class", "||h||²"], ["a|b", "0.5"]], ["a note"])
    assert written(table, "markdown") == "| class | \\|\\|h\\|\\|² |\n|---|---:|\n| a\\|b | 0.5 |\n\nof 5 %; a note"
    latex = written(table, "latex")
    assert r"\caption{of 5 \%; a note}" in latex
    assert r"class & \textbar{}\textbar{}h\textbar{}\textbar{}$^2$ \\" in latex
    assert written(table, "text") == table.text()


def test_a_note_of_several_tables_is_printed_once():
    first, second = texts([Table("one", [["a"]], ["same", "own"]), Table("two", [["a"]], ["same"])])
    assert (first.count("same"), first.count("own"), second.count("same")) == (1, 1, 0)
