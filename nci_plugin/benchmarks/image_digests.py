"""What an image list holds, by the bytes of its files: the same wherever they lie, and another for one changed byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.decoding import IMAGE_BYTES
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.benchmarks.lines import blocks, json_list, on_disk
from nci_plugin.checks import PluginError
from nci_plugin.files import digest_of, open_regular, read_file, write_atomically
from nci_plugin.progress import progress as shown_progress

THREADS = 4
"""They read and hash side by side: both leave Python's lock."""

BATCH = 256
"""Files that a thread reads in a row."""

HASH_BYTES = 32
"""Of a file of digests, before its rows."""

_ROW = np.dtype([("stamp", "<i8", 3), ("digest", "u1", 16)])
"""Size, time of modification and time of change of a file, and the hash of its bytes."""

_Rows = NDArray[np.void]


def content_digests(
    splits: Mapping[str, ImageFiles], cache: Path | None = None, progress: bool = False
) -> dict[str, str]:
    """The digest of each split: every file's bytes in the order of the list, with names and labels.

    What was read is kept in the directory ``cache`` with size and times of each file, so that a file is read again only
    if one of these changed. Raises PluginError on a file that cannot be read, and on one that was rewritten within its
    size and time of modification, by which stored features know it. With ``progress`` a bar is shown on a terminal
    where it takes long.
    """
    with shown_progress("check", "img", sum(map(len, splits.values())), progress, delay=1) as bar:
        known = {name: _known(name, files, cache, bar.update) for name, files in splits.items()}
    total = sum(int((~fresh).sum()) for _, _, fresh in known.values())
    found = {}
    with ThreadPoolExecutor(THREADS) as pool, shown_progress("hash", "img", total, progress, delay=1) as bar:
        for name, files in splits.items():
            rows, before, fresh = known.pop(name)
            for block in blocks(len(files)):  # not all at once: what waits in the pool has a size too
                stale = block.start + np.flatnonzero(~fresh[block])
                parts = [stale[start : start + BATCH].tolist() for start in range(0, len(stale), BATCH)]
                for part, digests in zip(parts, pool.map(lambda part, files=files: _hashed(files, part), parts)):  # type: ignore[misc]
                    rows["digest"][part] = digests
                    bar.update(len(part))
            _check_rewritten(files, rows, before)
            if cache is not None and not fresh.all():
                payload = rows.view(np.uint8).data
                whole = digest_of([payload]).encode(), payload
                write_atomically(_cache_file(name, files, cache), whole, durable=False)
            found[name] = digest_of([partial(_listed, files), partial(_bytes, rows)])
    return found


def _listed(files: ImageFiles) -> Iterator[str]:
    """Names and labels, as the JSON text of both."""
    yield "["
    yield from json_list(files.names)
    yield ", "
    yield from json_list(files.labels)
    yield "]"


def _bytes(rows: _Rows) -> Iterator[bytes]:
    return (rows["digest"][block].tobytes() for block in blocks(len(rows)))


def _path(files: ImageFiles, name: str) -> str:
    return os.path.join(files.source.directory, name)


def _cache_file(split: str, files: ImageFiles, cache: Path) -> Path:
    place = os.path.realpath(_path(files, ""))
    return cache / f"{digest_of(chain((split, place), files.names))}.digests"


def _known(
    split: str, files: ImageFiles, cache: Path | None, done: Callable[[], object]
) -> tuple[_Rows, _Rows | None, NDArray[np.bool_]]:
    """The rows of the files with their stamps, those of an earlier run, and which digests can be taken from there."""
    rows, fresh = on_disk(len(files), _ROW), np.zeros(len(files), bool)
    try:
        for row, name in enumerate(files.names):
            status = os.stat(_path(files, name))
            rows["stamp"][row] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            done()
    except OSError as error:
        raise PluginError(f"image '{error.filename}': {error.strerror}; put it back") from None
    before = None if cache is None else _cached(_cache_file(split, files, cache), len(rows))
    for block in blocks(len(rows) if before is not None else 0):
        fresh[block] = (rows["stamp"][block] == before["stamp"][block]).all(axis=1)  # type: ignore[index]
        rows["digest"][block][fresh[block]] = before["digest"][block][fresh[block]]  # type: ignore[index]
    return rows, before, fresh


def _cached(path: Path, count: int) -> _Rows | None:
    """What an earlier run kept, where it lies on the disk; None where there is nothing, or something else."""
    try:
        with open_regular(path, "digests", "delete it") as file:
            whole = os.fstat(file.fileno()).st_size == HASH_BYTES + count * _ROW.itemsize
            expected = file.read(HASH_BYTES) if whole else b""
            rows = np.memmap(file, _ROW, "r", HASH_BYTES, (count,)) if whole else None
    except (OSError, PluginError):
        return None  # made again
    return rows if rows is not None and digest_of([rows.view(np.uint8).data]).encode() == expected else None


def _hashed(files: ImageFiles, numbers: Iterable[int]) -> list[list[int]]:
    """The digests (16 bytes each) of some files."""
    digests = []
    for number in numbers:
        path = Path(_path(files, files.names[number]))
        data = read_file(path, "image", IMAGE_BYTES, f"put it back, or replace it{files.source.place(number)}")
        digests.append(list(blake2b(data, digest_size=16).digest()))
    return digests


def _check_rewritten(files: ImageFiles, rows: _Rows, before: _Rows | None) -> None:
    count, first = 0, ""
    for block in blocks(len(rows) if before is not None else 0):
        now, then = rows[block], before[block]  # type: ignore[index]
        same_stamp = (now["stamp"][:, :2] == then["stamp"][:, :2]).all(axis=1)
        rewritten = np.flatnonzero(same_stamp & (now["digest"] != then["digest"]).any(axis=1))
        if len(rewritten):
            count, first = count + len(rewritten), first or files.names[block.start + int(rewritten[0])]
    if count:
        raise PluginError(
            f"image '{_path(files, first)}': its bytes changed, but neither its size nor its time"
            f" of modification, by which stored features know it ({count} such below"
            f" '{files.source.directory}'); touch these files"
        )
