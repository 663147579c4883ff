"""Lists too long for memory: lines of a text file that stays on the disk, and rows in a temporary file.

A line costs four bytes of memory, whatever it holds, and a row of a long list none that the
system cannot take back.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.files import open_regular, read_at

BLOCK_BYTES = 2**18
"""Read at once."""

LINE_BYTES = 2**16
"""The longest line; paths end at 4096 bytes."""

ANCHORED = 2**12
"""Lines that are found from where the first of them begins: so many of LINE_BYTES are less than 2**31 bytes."""

BLOCK_ROWS = 2**12
"""Rows that are handled at once."""

IN_MEMORY = 2**24
"""Bytes of rows up to which no temporary file is worth its while."""

BOM = b"\xef\xbb\xbf"


class Lines(Sequence[str]):
    """The lines of a UTF-8 file, without a byte order mark and their ends, which are \\n, \\r\\n or \\r.

    Where they begin is in a tensor, which processes that load images share; a line is read when it is asked for.
    Raises PluginError, which begins with ``what`` and the path and ends with ``remedy``, on a file that is larger than
    ``limit`` bytes, no text or no regular file, and when it is asked for a line of a file that changed.
    """

    def __init__(self, path: Path, what: str, limit: int, remedy: str) -> None:
        self.path, self.what, self.remedy = path, what, remedy
        self._open()
        if self._stamp[0] > limit:
            raise self._refused(f"larger than {limit / 2**20:g} MiB, more than can be right")
        count = sum(len(block) for _, block in self._blocks())
        self._anchors = torch.empty(count // ANCHORED + 1, dtype=torch.int64)
        self._starts = torch.empty(count + 1, dtype=torch.int32)  # each from the anchor before it
        row = 0
        for begin, block in self._blocks():
            lengths = np.fromiter(map(len, block), np.int64, len(block))
            self._keep(row, begin + lengths.cumsum() - lengths)
            row += len(block)
        self._keep(row, np.array([self._stamp[0]]))

    def _keep(self, row: int, places: NDArray[np.int64]) -> None:
        """Where the lines from ``row`` on begin."""
        rows = np.arange(row, row + len(places))
        anchored = rows % ANCHORED == 0
        self._anchors.numpy()[rows[anchored] // ANCHORED] = places[anchored]
        self._starts.numpy()[rows] = places - self._anchors.numpy()[rows // ANCHORED]

    def _start(self, row: int) -> int:
        return int(self._anchors[row // ANCHORED]) + int(self._starts[row])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self._text(self._bytes(self._start(row), self._start(row + 1))).rstrip("\r\n")

    def __iter__(self) -> Iterator[str]:
        for _, block in self._blocks():
            yield from (self._text(line).rstrip("\r\n") for line in block)

    # ---------------------------------------------------------------- inside

    def _open(self) -> None:
        self._file = open_regular(self.path, self.what, self.remedy)
        weakref.finalize(self, self._file.close)
        self._stamp = self._stamp_now()

    def _stamp_now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _bytes(self, start: int, stop: int) -> bytes:
        data = read_at(self._file, start, stop - start)
        if self._stamp_now() != self._stamp or len(data) != stop - start:
            raise self._refused("it changed since it was read")
        return data

    def _blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Whole lines with their ends, about BLOCK_BYTES at a time, and where the first of them begins."""
        place = len(BOM) if self._bytes(0, min(len(BOM), self._stamp[0])) == BOM else 0
        size, rest, lines = self._stamp[0], b"", 0
        while place + len(rest) < size:
            begin = place + len(rest)
            data = rest + self._bytes(begin, min(begin + BLOCK_BYTES, size))
            block = data.splitlines(keepends=True)  # of bytes: at \n, \r\n and \r alone
            if max(map(len, block)) > LINE_BYTES:
                index = next(index for index, line in enumerate(block) if len(line) > LINE_BYTES)
                raise self._refused(f"line {lines + index + 1} is longer than {LINE_BYTES} bytes")
            ends = place + len(data) == size
            last = b"" if ends else block.pop()  # what follows may belong to it, and be the \n of a \r
            self._text(b"".join(block))
            if block:
                yield place, block
            place, rest, lines = place + len(data) - len(last), last, lines + len(block)

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self._refused("not a text file (UTF-8)") from None

    def _refused(self, reason: str) -> PluginError:
        return PluginError(f"{self.what} '{self.path}': {reason}; {self.remedy}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        stamp = self._stamp
        self._open()
        if self._stamp != stamp:
            raise self._refused("it changed since it was read")


def on_disk(rows: int, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros, if they are many in a temporary file without a name that goes with them.

    Raises PluginError on a full disk.
    """
    size = rows * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(rows, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # what is not there when it is written to would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.dtype(dtype), "w+", shape=(rows,))
        except OSError as error:
            raise PluginError(
                f"temporary directory '{tempfile.gettempdir()}': {size} bytes for {rows} images: {error.strerror}; free"
                " space, or set TMPDIR to another directory"
            ) from None


def blocks(rows: int) -> Iterator[slice]:
    """All rows, so many at a time."""
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))


def json_list(values: Iterable[Any]) -> Iterator[str]:
    """The text of ``json.dumps(list(values))``, piece by piece."""
    source, before = iter(_plain(values)), "["
    while block := list(islice(source, BLOCK_ROWS)):
        yield before + json.dumps(block)[1:-1]
        before = ", "
    yield "]" if before == ", " else "[]"


def _plain(values: Any) -> Iterable[Any]:
    """Python's own numbers of an array or a tensor."""
    if isinstance(values, (np.ndarray, Tensor)):
        return (each for rows in blocks(len(values)) for each in values[rows].tolist())
    return values
