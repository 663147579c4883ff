"""Lists too long for memory: lines of a text file that stays on the disk, and rows in a temporary file.

A line costs eight bytes of memory, whatever it holds, and a row none that the system cannot take back.
"""

from __future__ import annotations

import json
import os
import tempfile
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

BLOCK_ROWS = 2**12
"""Rows that are handled at once."""

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
        self._starts = torch.empty(count + 1, dtype=torch.int64)
        self._starts[count] = self._stamp[0]
        starts, row = self._starts.numpy(), 0
        for begin, block in self._blocks():
            lengths = np.fromiter(map(len, block), np.int64, len(block))
            starts[row : row + len(block)] = begin + lengths.cumsum() - lengths
            row += len(block)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        start, stop = self._starts[range(len(self))[index]], self._starts[range(len(self))[index] + 1]
        return self._text(self._bytes(int(start), int(stop))).rstrip("\r\n")

    def __iter__(self) -> Iterator[str]:
        for _, block in self._blocks():
            yield from (self._text(line).rstrip("\r\n") for line in block)

    # ---------------------------------------------------------------- inside

    def _open(self) -> None:
        self._file = open_regular(self.path, self.what, self.remedy)
        self._stamp = self._stamp_now()

    def _stamp_now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _bytes(self, start: int, stop: int) -> bytes:
        if self._stamp_now() != self._stamp:
            raise self._refused("it changed since it was read")
        return read_at(self._file, start, stop - start)

    def _blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Whole lines with their ends, about BLOCK_BYTES at a time, and where the first of them begins."""
        place = len(BOM) if self._bytes(0, len(BOM)) == BOM else 0
        size, rest, lines = self._stamp[0], b"", 0
        while place + len(rest) < size:
            begin = place + len(rest)
            data = rest + self._bytes(begin, min(begin + BLOCK_BYTES, size))
            block = data.splitlines(keepends=True)  # of bytes: at \n, \r\n and \r alone
            ends = place + len(data) == size
            last = b"" if ends else block.pop()  # what follows may belong to it, and be the \n of a \r
            if len(last) > LINE_BYTES:
                raise self._refused(f"line {lines + len(block) + 1} is longer than {LINE_BYTES} bytes")
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
    """Zeros in a temporary file that has no name and goes with the array; raises PluginError on a full disk."""
    size = rows * np.dtype(dtype).itemsize
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
