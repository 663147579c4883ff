"""Long work tells how far it is where standard error is a file."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nci_plugin import Benchmark, ImageList, Preprocessing
from nci_plugin import progress as module
from nci_plugin.benchmarks import folder, image_digests, image_list, shards
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.evaluation.identify import data_identity
from nci_plugin.progress import progress

PREPROCESSING = Preprocessing(2, 2, ((0.5,) * 3, (0.5,) * 3))


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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a function of a module long work, of which lines come often."""
    monkeypatch.setattr(module, "EVERY", 0.01)

    def made_slow(of: Any, name: str) -> None:
        original = getattr(of, name)

        def slowly(*arguments: Any) -> Any:
            time.sleep(0.03)
            return original(*arguments)

        monkeypatch.setattr(of, name, slowly)

    return made_slow


def an_image() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, "PNG")
    return data.getvalue()


def test_lists_and_folders_that_are_looked_at_and_known_files(
    tmp_path: Path, slow: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(an_image())
    (tmp_path / "list.txt").write_text("a.png 0\n" * 4)
    images = ImageList("list.txt", "", PREPROCESSING, tmp_path)
    benchmark = Benchmark.from_splits("lists", 2, test=images, near={"n": tmp_path}, preprocessing=PREPROCESSING)
    slow(image_list, "file_stamp")
    slow(folder, "file_stamp")
    splits = open_splits(benchmark)
    assert capsys.readouterr().err == ""
    open_splits(benchmark, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("open: 1 of 4 img, ") for line in lines)
    assert "open: 0 of 1 img" in lines
    data_identity({"id/test": splits["id/test"]}, tmp_path / "cache")
    slow(image_digests, "_path")
    data_identity({"id/test": splits["id/test"]}, tmp_path / "cache", progress=True)
    assert any(line.startswith("check: 1 of 4 img, ") for line in capsys.readouterr().err.splitlines())


def test_shards_that_are_looked_through_and_hashed(
    tmp_path: Path, slow: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset")
    for name in ("0", "1"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo("a.png")
            info.size = len(an_image())
            tar.addfile(info, io.BytesIO(an_image()))
    source = shards.ImageShards([tmp_path / "0.tar", tmp_path / "1.tar"], PREPROCESSING)
    content = source.read(None).content()
    slow(shards, "open_regular")
    opened = source.read(None, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("open: 1 of 2 shard, ") for line in lines)
    assert data_identity({"near/n": opened}, None, progress=True)["images"]["near/n"] == content
    assert "hash: 0 of 2 MB" in capsys.readouterr().err.splitlines()
