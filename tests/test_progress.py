"""Long work tells how far it is where standard error is a file."""

from __future__ import annotations

import contextlib
import io
import re
import time

import pytest

from nci_plugin import progress as module
from nci_plugin.progress import progress


def test_a_line_comes_though_no_unit_ends_and_rate_and_time_left_once_one_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.1)
    with progress("score", "detector", 4) as bar:
        bar.set_postfix_str("knn")
        time.sleep(0.25)
        bar.update()
        time.sleep(0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "score: 0 of 4 detector (knn)"
    assert re.fullmatch(r"score: 1 of 4 detector, [0-9.]+ detector/s, 00:0\d left \(knn\)", lines[-1])


def test_what_was_stored_is_no_part_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.1)
    with progress("extract", "img", 1000) as bar:
        bar.total -= 990
        bar.update(5)
        time.sleep(0.15)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("extract: 5 of 10 img, ")
    assert line.endswith(" 00:00 left")


def test_lines_come_while_a_method_hides_its_own_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    with progress("score", "detector", 2), contextlib.redirect_stderr(io.StringIO()) as hidden:
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("score: 0 of 2 detector\n")
    assert hidden.getvalue() == ""


def test_short_work_and_what_is_not_to_be_shown_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("extract", "img", 10) as bar:
        bar.update(10)
    monkeypatch.setattr(module, "EVERY", 0.01)
    with progress("extract", "img", 10, shown=False) as bar:
        time.sleep(0.05)
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_bars_though_standard_error_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Widget(module.plain_bar):
        """What tqdm.auto takes where there is a notebook."""

    monkeypatch.setattr(module, "tqdm", Widget)
    with progress("extract", "img", 10) as bar:
        assert isinstance(bar, Widget)
        bar.update(10)
    assert "10/10" in capsys.readouterr().err
