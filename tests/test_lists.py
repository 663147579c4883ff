"""Image lists stay on the disk, and are what they were when they were read whole."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nci_plugin import ImageList, PluginError, Preprocessing
from nci_plugin.benchmarks import image_digests, lines
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.benchmarks.lines import IN_MEMORY, Lines, json_list, on_disk
from nci_plugin.files import digest, digest_of

PREPROCESSING = Preprocessing(2, 2, ((0.5,) * 3, (0.5,) * 3))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 3)
    monkeypatch.setattr(lines, "BLOCK_ROWS", 2)
    monkeypatch.setattr(lines, "ANCHORED", 3)


def read(folder: Path, count: int = 7, label: int = 0) -> ImageFiles:
    for index in range(count):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(folder / f'é "{index}".png')
    text = "".join(f'é "{index}".png {label}\n' for index in range(count))
    (folder / "list.txt").write_text(text, encoding="utf-8")
    return ImageList("list.txt", "", PREPROCESSING, folder).read()


@given(st.lists(st.sampled_from(["a", "é\u2028", " ", "\r", "\n", "\r\n"])), st.booleans())
def test_lines_are_those_of_the_whole_text(parts: list[str], marked: bool) -> None:
    text = "".join(parts)
    path = Path(os.environ["PYTEST_TMP"]) / "text"
    path.write_bytes(("\ufeff" * marked + text).encode())
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    expected = plain.removesuffix("\n").split("\n") if plain else []
    found = Lines(path, "list", 10**6, "correct it")
    assert list(found) == [found[index] for index in range(len(found))] == expected
    assert list(pickle.loads(pickle.dumps(found))) == expected  # as a process that loads images gets it


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test of many examples writes, which can have no fixture of one."""
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))


def test_a_list_is_known_by_what_it_was_known_by(tmp_path: Path) -> None:
    """Stored features and results of earlier versions, which held the whole list, are found."""
    files = read(tmp_path)
    names, labels = [f'é "{index}".png' for index in range(7)], [0] * 7
    stamps = [(tmp_path / name).stat() for name in names]
    content = json.dumps([repr(PREPROCESSING), names, labels, [each.st_size for each in stamps]])
    assert "".join(files.content()) == content
    whole = json.dumps([content, [each.st_mtime_ns for each in stamps]])
    assert digest_of([files.fingerprint]) == digest(whole)
    hashes = b"".join(bytes(each) for each in image_digests._hashed(files, range(7)))
    expected = digest(json.dumps([names, labels]), hashes)
    for _ in range(2):  # the second time from what was kept
        assert image_digests.content_digests({"id/test": files}, tmp_path / "cache") == {"id/test": expected}


def test_a_file_of_digests_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    files = read(tmp_path)
    first = image_digests.content_digests({"id/test": files}, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    for data in (kept.read_bytes()[:-1], kept.read_bytes()[:-1] + b"x", b""):
        kept.write_bytes(data)
        assert image_digests.content_digests({"id/test": files}, tmp_path / "cache") == first


@pytest.mark.parametrize("label", [-1, 2**31 - 1, 2**31, -(10**17)])
def test_labels_of_any_size(tmp_path: Path, label: int) -> None:
    files = read(tmp_path, 3, label)
    assert files.labels.tolist() == [label] * 3
    assert int(files.item(2)[1]) == label


def test_a_list_that_changed_is_not_read_on(tmp_path: Path) -> None:
    files = read(tmp_path)
    copy = pickle.dumps(files)
    (tmp_path / "list.txt").write_text('é "1".png 0\n' * 9, encoding="utf-8")
    for ask in (lambda: files.item(3), lambda: list(files.names), lambda: pickle.loads(copy)):
        with pytest.raises(PluginError, match="list.txt': it changed since it was read"):
            ask()


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 10)
    (tmp_path / "list.txt").write_bytes(b"a -1\n" + b"x" * 30)
    with pytest.raises(PluginError, match="line 2 is longer than 10 bytes"):
        ImageList("list.txt", "", PREPROCESSING, tmp_path).read()


def test_the_text_of_a_list_by_pieces() -> None:
    for values in ([], ["a"], ["a", "b"], [1, 2, 3], np.arange(5)):
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        assert "".join(json_list(values)) == json.dumps(plain)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    rows = IN_MEMORY // 8 + 1
    with pytest.raises(PluginError, match=f"{8 * rows} bytes for {rows} images: No space left on device; free space"):
        on_disk(rows, np.int64)
    assert len(on_disk(rows - 1, np.int64)) == rows - 1
