"""The file of scores: rows that a kill leaves whole, and that a second run goes on with.

Rows are appended a batch at a time, in one write. A run that is started again on the same file cuts off a row that was
half written, scores the images that have no row yet, and so loses none and writes none twice.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nci_plugin.checks import PluginError
from nci_plugin.files import LOCK, holding, write_atomically
from nci_plugin.parsing import read_json

COLUMNS = ("file", "class", "score", "p_value", "verdict", "error")
FORMATS = ("csv", "jsonl")
BINARY = getattr(os, "O_BINARY", 0)
"""Of Windows."""


class ScoreLog:
    """A file of rows ``file, class, score, p_value, verdict, error``, CSV or JSON lines; None = standard output, CSV.

    ``run`` says what the rows come from. It stands in ``<name>.run.json`` beside the file, and a file of another run,
    or without it, is refused. A name with characters that cannot be printed is written with escapes, see `as_text`.
    """

    def __init__(self, path: Path | None, format: str, run: Mapping[str, Any]) -> None:
        self.path, self.format, self.run = path, format, dict(run)
        self._done = np.empty(0, dtype=np.uint64)  # hashes: eight bytes an image
        self._file: BinaryIO | None = None
        self._open_files = ExitStack()
        self.unreadable = 0  # of the rows that were there when the file was opened: images that could not be read

    @property
    def rows(self) -> int:
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        wanted = np.uint64(hash_of(as_text(name)))  # as a plain int it would be compared in floating point
        place = int(np.searchsorted(self._done, wanted))
        return place < len(self._done) and self._done[place] == wanted

    def __enter__(self) -> ScoreLog:
        """Open the file and look at what it has; raises PluginError on one of another run, or that another writes."""
        if self.path is None:
            self._write(self._header())
            return self
        if self.path.exists() and not self.path.is_file():
            raise PluginError(f"output '{self.path}': is no file; name one, or leave it out for standard output")
        with ExitStack() as open_files:
            # Neither cut off nor read before it is locked: another command may just have begun it.
            place = Path(os.path.realpath(self.path))  # of a link that leads nowhere too
            open_files.enter_context(holding(place.with_name(f".{place.name}{LOCK}"), self.path))
            try:
                file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | BINARY, 0o666), "r+b", buffering=0)
            except OSError as error:
                raise PluginError(f"output '{self.path}': {error.strerror}; choose another") from None
            self._file = open_files.enter_context(file)
            beside = run_path(self.path)
            if os.fstat(file.fileno()).st_size:
                self._check_run(beside)
            else:
                write_atomically(beside, json.dumps(self.run, indent=1) + "\n")
            self._done = np.sort(np.fromiter(map(hash_of, self._whole_rows()), dtype=np.uint64))
            if not file.tell():
                self._write(self._header())
            self._open_files = open_files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows in one piece; when this returns they are on the disk."""
        if self.format == "jsonl":
            self._write("".join(json.dumps(row) + "\n" for row in rows).encode())
        else:
            self._write(_csv(rows))

    def _header(self) -> bytes:
        return b"" if self.format == "jsonl" else _csv([dict(zip(COLUMNS, COLUMNS))])

    def _write(self, data: bytes) -> None:
        if self.path is None:
            sys.stdout.write(data.decode())
            sys.stdout.flush()
            return
        assert self._file is not None
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())

    def _check_run(self, beside: Path) -> None:
        try:
            before = read_json(beside, "run", "choose another output")
        except OSError:
            before = None
        if before != self.run:
            changed = [name for name in self.run if not isinstance(before, dict) or before.get(name) != self.run[name]]
            raise PluginError(
                f"output '{self.path}': holds rows of another run ({', '.join(changed) or 'nothing known'} differs);"
                " choose another file, or move it away"
            )

    def _whole_rows(self) -> Iterator[str]:
        """The files of the rows that are whole, after cutting off one that is not; leaves the place at the end."""
        assert self._file is not None
        end = 0
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for number, line in enumerate(lines):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                if self.format == "csv" and not number:
                    if line != self._header():
                        raise PluginError(f"output '{self.path}': is no file of scores; choose another")
                    continue
                try:
                    by_place = self.format == "csv"
                    row = dict(zip(COLUMNS, next(csv.reader([line.decode()])))) if by_place else json.loads(line)
                    name, error = row["file"], row["error"]
                    name.encode()  # is a text
                except (ValueError, KeyError, TypeError, AttributeError, StopIteration, csv.Error):
                    raise PluginError(f"output '{self.path}': line {number + 1} is no row; choose another") from None
                self.unreadable += error != ""
                yield name
        self._file.truncate(end)
        self._file.seek(end)


def run_path(path: Path) -> Path:
    """Where a file of scores says what they come from."""
    return path.parent / f"{path.name}.run.json"


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def as_text(name: str) -> str:
    r"""A file's name, printable: what is not, and ``\``, as in a text of Python, so that two names stay two."""
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(
        letter if letter.isprintable() and letter != "\\" else letter.encode("unicode_escape").decode("ascii")
        for letter in name
    )


def hash_of(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
