"""What comes from outside passes one gate of its kind: texts that are shown, names from data, files that are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nci_plugin.checks import MESSAGE_CHARACTERS, PluginError, check_name, shown
from nci_plugin.files import read_file, read_text


@pytest.mark.parametrize(
    ("raw", "printed"),
    [
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u202eb", "a\\u202eb"),
        ("lone \ud800", "lone \\ud800"),
        ("Zürich – ±", "Zürich – ±"),
        ("got <a.B object at 0x7f5d0e2b3f10> and <function f at 0x7F>", "got <a.B> and <function f>"),
        ("meet at 0x10, please", "meet at 0x10, please"),
    ],
)
def test_a_message_is_one_line_that_a_terminal_can_be_shown(raw, printed):
    error = PluginError(raw, ["kept  apart", raw])
    assert str(error) == printed
    assert error.details == ("kept  apart", printed)
    assert str(error).isprintable()


def test_a_message_is_bounded():
    assert len(str(PluginError("x" * 10**7))) < MESSAGE_CHARACTERS + 10


def test_a_value_is_shown_bounded_even_where_its_repr_would_not_end():
    bomb: list = ["lol"]
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(shown(bomb)) <= 160
    assert len(shown({"a" * 10**6: bomb})) <= 160
    assert shown("0.5") == "'0.5'"


@pytest.mark.parametrize("name", ["nci", "pytorch_ood:knn", "s0", "cifar10-c v2", "a..b", "Ünïcode", "x" * 120])
def test_names_that_data_may_bring(name):
    assert check_name("detector", name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../x", "a/b", "a\\b", "/etc", "x\0", "x\n", "\x1b[2J", "\ud800", "x" * 121, None, 3]
)
def test_names_that_data_may_not_bring(name):
    with pytest.raises(PluginError, match="detector: a name must be 1 to 120 printable characters"):
        check_name("detector", name)


def test_a_regular_file_is_read(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("é\r\n".encode())
    assert read_file(file, "list", 4, "pass another") == "é\r\n".encode()
    assert read_text(file, "list", 4, "pass another") == "é\r\n"
    with pytest.raises(PluginError, match="larger than"):
        read_file(file, "list", 3, "pass another")


def test_what_is_no_regular_file_is_refused(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, Path("/dev/zero"), tmp_path):
        with pytest.raises(PluginError, match=r"list '.*': (must be a regular file|Is a directory); pass another"):
            read_file(path, "list", 100, "pass another")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    for name in ("a\0b", "x" * 300):
        with pytest.raises(PluginError, match="; pass another"):
            read_file(tmp_path / name, "list", 100, "pass another")


def test_a_file_that_is_not_there_is_an_error_in_one_line_that_a_caller_can_do_without(tmp_path):
    (tmp_path / "file").touch()
    for name, reason in (("none", "No such file or directory"), ("file/none", "Not a directory")):
        for kind in (FileNotFoundError, PluginError):
            with pytest.raises(kind, match=f"^list '{tmp_path / name}': {reason}; pass another$"):
                read_file(tmp_path / name, "list", 100, "pass another")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(PluginError, match="not a text file"):
        read_text(tmp_path / "a", "list", 100, "pass another")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone has files that say they are empty")
def test_a_file_that_says_it_is_empty_is_read(tmp_path):
    assert Path("/proc/self/maps").stat().st_size == 0
    assert read_file(Path("/proc/self/maps"), "list", 2**24, "pass another").endswith(b"\n")
    with pytest.raises(PluginError, match="larger than"):
        read_file(Path("/proc/self/maps"), "list", 10, "pass another")
