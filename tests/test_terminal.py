"""What is printed fits the terminal, and is plain ASCII where there is none."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from command import diagnose
from result_rows import SEEDS, rows_of
from tiny import Tiny

from nci_plugin.cli.main import main
from nci_plugin.report import terminal
from nci_plugin.report.names import display_name, display_names
from nci_plugin.report.tables import MAIN_METRICS, choices_table, setting_table

AT_80 = """\
cifar10, standard OOD: ACC 95.06 ± 0.00 on 9000 ID samples; in percent, mean ±
  std over s0, s1, s2
                                -------- near --------  -------- far ---------
detector                             AUROC      FPR@95       AUROC      FPR@95
mds_pp                          91.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
whitened_cosine_pp              88.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
pytorch_ood:temperaturescaling  85.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
near: cifar100, tin; far: mnist"""

AT_120 = """\
cifar10, standard OOD: ACC 95.06 ± 0.00 on 9000 ID samples; in percent, mean ± std over s0, s1, s2
                                                                  -------- near --------  -------- far ---------
detector                        name                                   AUROC      FPR@95       AUROC      FPR@95
mds_pp                          MDS++                             91.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
whitened_cosine_pp              Whitened cosine++                 88.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
pytorch_ood:temperaturescaling  TemperatureScaling (pytorch-ood)  85.00±0.82  30.00±0.00  92.00±0.00  30.00±0.00
near: cifar100, tin; far: mnist"""


@pytest.fixture(autouse=True)
def lines_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "WIDTH", 100)


class Terminal(io.StringIO):
    """A terminal of some encoding."""

    def __init__(self, encoding):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return True


def results():
    names = {"mds_pp": 90.0, "whitened_cosine_pp": 87.0, "pytorch_ood:temperaturescaling": 84.0}
    return [
        row
        for i, seed in enumerate(SEEDS)
        for name, near in names.items()
        for row in rows_of(name, near + i, seed=seed)
    ]


def printed(metrics=MAIN_METRICS, by_data_set=False):
    names = display_names({result.detector for result in results()})
    return setting_table(results(), "ood", metrics, by_data_set, names)


@pytest.mark.parametrize(("columns", "text"), [("80", AT_80), ("120", AT_120)])
def test_the_table_in_a_terminal(monkeypatch, columns, text):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))
    assert printed() == text


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("by_data_set", [True, False])
def test_every_width_holds_the_table(monkeypatch, columns, by_data_set):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(("auroc", "fpr95", "aupr_in", "aupr_out"), by_data_set)
    assert max(map(len, text.splitlines())) <= max(columns, 30 + 2 + len("near/cifar100"))
    assert text.count("91.00+-0.82") == 1 + by_data_set


def test_every_part_of_a_table_tells_its_rows_apart(monkeypatch):
    """The second part had the detectors alone, each as often as there are groups."""
    monkeypatch.setenv("COLUMNS", "30")
    rows = [["detector", "group", "first number", "second"], ["nci", "near", "1", "2"], ["nci", "far", "3", "4"]]
    assert terminal.aligned(rows, left=2).splitlines() == [
        "detector  group  first number",
        "nci       near              1",
        "nci       far               3",
        "",
        "detector  group  second",
        "nci       near        2",
        "nci       far         4",
    ]


def test_wide_characters_take_two_places():
    accent = "e\u0301"  # a letter and its accent
    text = terminal.aligned([["detector", "AUROC"], ["神经", "90"], [accent, "100"]])
    assert text.splitlines() == ["detector  AUROC", "神经         90", f"{accent}           100"]


def test_where_there_is_no_terminal_lines_are_plain_and_of_the_stated_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    text = printed(("auroc", "fpr95", "aupr_in", "aupr_out"), True) + "\n" + choices_table(results())
    assert text.isascii()
    assert 80 < max(map(len, text.splitlines())) <= terminal.WIDTH == 100


def test_a_terminal_that_lacks_plus_minus_gets_ascii(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal("ascii"))
    assert printed().isascii()


def test_prose_keeps_whole_words_and_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    path = "/a/path/that/is/longer/than/a/line.ckpt"
    assert terminal.folded(f"written to {path} now\n\nand") == f"written to\n  {path}\n  now\n\nand"


def test_display_names():
    assert display_name("ebo") == "Energy"
    assert display_name("pytorch_ood:vim") == "ViM (pytorch-ood)"
    assert display_name("openood:knn") == "KNN (OpenOOD)"
    assert display_name("of_a_file") == "of_a_file"


@pytest.mark.parametrize("options", [[], ["--wide", "--data-sets"], ["--intervals"]])
def test_no_line_of_a_redirected_run_is_wider_than_100(tmp_path, monkeypatch, capsys, options):
    """Paths are of one word each and may be longer; here they are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    tiny = Tiny(Path("t"), seeds=2)
    arguments = tiny.eval(
        "msp", "nci", "mds_pp", "whitened_cosine_pp", "pytorch_ood:temperaturescaling", ckpt_path=tiny.checkpoints
    )
    assert main([*arguments, *options]) == 0
    out = capsys.readouterr().out
    assert "whitened_cosine_pp" in out
    assert out.isascii()
    assert [line for line in out.splitlines() if len(line) > 100] == []


def test_a_note_of_several_networks_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = Tiny(Path("t"), seeds=2)
    monkeypatch.setattr("nci_plugin.evaluation.evaluate.sentence", lambda statistics: "10 of 12 values are few")
    assert main(tiny.eval("msp", ckpt_path=tiny.checkpoints)) == 0
    assert capsys.readouterr().out.count("training statistics of s0, s1: ") == 1


def test_a_redirected_diagnosis_is_narrow_and_says_its_notes_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    tiny = Tiny(Path("t"), seeds=2)
    assert main(diagnose(tiny, "--layers", ckpt_path=tiny.checkpoints)) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert [line for line in out.splitlines() if len(line) > 100] == []
    assert out.count("class by class") == 2
    for note in ("angle: the smallest to another", "features to store", "feature maps are averaged", "NC4 on id/train"):
        assert out.count(note) == 1, note
    assert "layers, scores_csid" in " ".join(out.split())  # a figure of every network is named once
    _, benchmark, _, _, *rest = tiny.eval(ckpt_path=tiny.checkpoints)
    assert main(["explain", str(next(tiny.data.rglob("*.png"))), benchmark, *rest]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert [line for line in out.splitlines() if len(line) > 100] == []
    assert "NC1 score" in out


def test_signs_are_ascii_where_there_is_no_terminal():
    assert terminal.plain("R² 0.9 ± 0.1, 109.5°") == "R^2 0.9 +- 0.1, 109.5 degrees"
