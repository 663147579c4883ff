"""What an image list holds, by the bytes of its files: the same wherever they lie, and another for one changed byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.decoding import IMAGE_BYTES
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.checks import PluginError
from nci_plugin.files import digest, read_file, write_atomically
from nci_plugin.progress import progress as shown_progress

THREADS = 4
"""They read and hash side by side: both leave Python's lock."""

BATCH = 256
"""Files that a thread reads in a row."""

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
    known = {name: _known(name, files, cache) for name, files in splits.items()}
    stale = {name: np.flatnonzero(~fresh).tolist() for name, (_, _, fresh) in known.items()}
    total = sum(map(len, stale.values()))
    found = {}
    with ThreadPoolExecutor(THREADS) as pool, shown_progress("hash", "img", total, progress, delay=1) as bar:
        for name, files in splits.items():
            rows, before, _ = known[name]
            parts = [stale[name][start : start + BATCH] for start in range(0, len(stale[name]), BATCH)]
            for part, digests in zip(parts, pool.map(lambda part, files=files: _hashed(files, part), parts)):  # type: ignore[misc]
                rows["digest"][part] = digests
                bar.update(len(part))
            _check_rewritten(files, rows, before)
            if parts and cache is not None:
                payload = rows.tobytes()
                write_atomically(_cache_file(name, files, cache), digest(payload).encode() + payload, durable=False)
            labels = json.dumps([files.names, files.labels.tolist()])
            found[name] = digest(labels, rows["digest"].tobytes())
    return found


def _path(files: ImageFiles, name: str) -> str:
    return os.path.join(files.source.directory, name)


def _cache_file(split: str, files: ImageFiles, cache: Path) -> Path:
    place = os.path.realpath(_path(files, ""))
    return cache / f"{digest(split, place, *files.names)}.digests"


def _known(split: str, files: ImageFiles, cache: Path | None) -> tuple[_Rows, _Rows | None, NDArray[np.bool_]]:
    """The rows of the files with their stamps, those of an earlier run, and which digests can be taken from there."""
    rows = np.zeros(len(files.names), _ROW)
    try:
        rows["stamp"] = [
            (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for status in (os.stat(_path(files, name)) for name in files.names)
        ]
    except OSError as error:
        raise PluginError(f"image '{error.filename}': {error.strerror}; put it back") from None
    before = None if cache is None else _cached(_cache_file(split, files, cache), len(rows))
    if before is None:
        return rows, None, np.zeros(len(rows), bool)
    fresh = (rows["stamp"] == before["stamp"]).all(axis=1)
    rows["digest"][fresh] = before["digest"][fresh]
    return rows, before, fresh


def _cached(path: Path, count: int) -> _Rows | None:
    """What an earlier run kept; None where there is nothing, or something else."""
    try:
        data = read_file(path, "digests", 32 + count * _ROW.itemsize, "delete it")
    except (FileNotFoundError, NotADirectoryError, PluginError):
        return None  # made again
    payload = data[32:]
    whole = len(payload) == count * _ROW.itemsize and data[:32] == digest(payload).encode()
    return np.frombuffer(payload, _ROW) if whole else None


def _hashed(files: ImageFiles, numbers: Iterable[int]) -> list[list[int]]:
    """The digests (16 bytes each) of some files."""
    digests = []
    for number in numbers:
        path = Path(_path(files, files.names[number]))
        try:
            data = read_file(path, "image", IMAGE_BYTES, "replace the file")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PluginError(f"image '{path}'{files.source.place(number)}: {error.strerror}; put it back") from None
        digests.append(list(blake2b(data, digest_size=16).digest()))
    return digests


def _check_rewritten(files: ImageFiles, rows: _Rows, before: _Rows | None) -> None:
    if before is None:
        return
    same_stamp = (rows["stamp"][:, :2] == before["stamp"][:, :2]).all(axis=1)
    rewritten = np.flatnonzero(same_stamp & (rows["digest"] != before["digest"]).any(axis=1))
    if len(rewritten):
        raise PluginError(
            f"image '{_path(files, files.names[rewritten[0]])}': its bytes changed, but neither its size nor its time"
            f" of modification, by which stored features know it ({len(rewritten)} such below"
            f" '{files.source.directory}'); touch these files"
        )
