"""Scores of any number of image files, in flat memory, into a file that a kill leaves whole.

Rows are appended a batch at a time, in one write. A run that is started again on the same file cuts off a row that was
half written, scores the images that have no row yet, and so loses none and writes none twice.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from nci_plugin.benchmarks.decoding import read_image
from nci_plugin.benchmarks.folder import DEEPEST
from nci_plugin.checks import PluginError
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.images import needed, stacked
from nci_plugin.files import write_atomically
from nci_plugin.parsing import read_json

COLUMNS = ("file", "class", "score", "p_value", "verdict", "error")
ID, OOD = "ID", "OOD"
FORMATS = ("csv", "jsonl")


@dataclass
class Counts:
    """Images of a run: those that have a row already, those scored now, and of these the OOD and unreadable ones."""

    before: int = 0
    scored: int = 0
    ood: int = 0
    unreadable: int = 0


def image_names(root: Path) -> Iterator[str]:
    """Paths, relative to a directory, of the images in it and below, as the system lists them; none is kept."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        if folder.count("/") > DEEPEST:
            raise PluginError(f"folder '{root}': deeper than {DEEPEST} folders; does a link lead back?")
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir():
                    waiting.append(f"{name}/")
                elif entry.name.lower().endswith(IMG_EXTENSIONS):
                    yield name


def listed_names(path: Path) -> Iterator[str]:
    """The images that a text file names, one a line, alone or with a label behind, as OpenOOD's lists."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            name, _, last = line.strip().rpartition(" ")
            if line.strip():
                yield name.rstrip() if name and last.lstrip("+-").isdecimal() else line.strip()


def score_files(
    detector: OODDetector,
    root: Path,
    names: Iterable[str],
    log: ScoreLog,
    batch_size: int = 200,
    workers: int = 1,
    tpr: float | None = None,
    progress: bool = True,
) -> Counts:
    """Score the images ``names``, relative to ``root``, that have no row in ``log`` yet.

    An image that cannot be read, or gives NaN, gets a row with the reason and no score; the others go on. ``workers``
    threads decode the next batch while the network works on one.
    """
    steps = needed(detector.fitted.preprocessing, "an image file")
    counts = Counts(before=log.rows)

    def decoded(name: str) -> Tensor | PluginError:
        try:
            return read_image(root / name, steps, "replace the file")
        except PluginError as error:
            return error

    new = (name for name in names if name not in log)
    quiet = None if progress else True  # None: on a terminal only
    with ThreadPoolExecutor(max(1, workers)) as pool, tqdm(unit="img", desc="score", disable=quiet) as bar:
        under_way: tuple[list[str], list[Future[Tensor | PluginError]]] | None = None
        # One more batch, which is empty, so that the last one is waited for too.
        for batch in chain(iter(lambda: list(islice(new, batch_size)), []), [[]]):
            started = batch, [pool.submit(decoded, name) for name in batch]
            if under_way is not None:
                rows = _rows(detector, under_way[0], [each.result() for each in under_way[1]], tpr)
                log.append(rows)
                counts.scored += len(rows)
                counts.ood += sum(row["verdict"] == OOD for row in rows)
                counts.unreadable += sum(row["error"] != "" for row in rows)
                bar.update(len(rows))
            under_way = started if batch else None
    return counts


def _rows(
    detector: OODDetector, names: list[str], images: list[Tensor | PluginError], tpr: float | None
) -> list[dict[str, Any]]:
    """One row a name, in order."""
    good = [image for image in images if isinstance(image, Tensor)]
    try:
        answers: Iterator[dict[str, Any]] = _answers(detector, good, tpr) if good else iter(())
    except PluginError:  # NaN in one of them, or another size: each by itself, to name which
        return [
            _row(name, image if isinstance(image, PluginError) else _alone(detector, image, tpr))
            for name, image in zip(names, images)
        ]
    return [
        _row(name, image if isinstance(image, PluginError) else next(answers)) for name, image in zip(names, images)
    ]


def _answers(detector: OODDetector, images: list[Tensor], tpr: float | None) -> Iterator[dict[str, Any]]:
    found = detector.predict(stacked(images), tpr)
    values = zip(found.classes, found.scores.tolist(), found.p_values.tolist(), found.is_ood.tolist())
    return iter(
        [
            {
                "class": name,
                "score": float(f"{score:.9g}"),  # all digits of a float32
                "p_value": float(f"{p_value:.9g}"),
                "verdict": OOD if is_ood else ID,
            }
            for name, score, p_value, is_ood in values
        ]
    )


def _alone(detector: OODDetector, image: Tensor, tpr: float | None) -> dict[str, Any] | PluginError:
    try:
        return next(_answers(detector, [image], tpr))
    except PluginError as error:
        return error


def _row(name: str, answer: Mapping[str, Any] | PluginError) -> dict[str, Any]:
    if isinstance(answer, PluginError):
        return {**dict.fromkeys(COLUMNS, None), "file": as_text(name), "verdict": "", "error": str(answer)}
    return {"file": as_text(name), **answer, "error": ""}


class ScoreLog:
    """A file of rows ``file, class, score, p_value, verdict, error``, CSV or JSON lines; None = standard output, CSV.

    ``run`` says what the rows come from. It stands in ``<name>.run.json`` beside the file, and a file of another run,
    or without it, is refused. A name with characters that cannot be printed is written with escapes.
    """

    def __init__(self, path: Path | None, format: str, run: Mapping[str, Any]) -> None:
        self.path, self.format, self.run = path, format, dict(run)
        self._done = np.empty(0, dtype=np.uint64)  # hashes: eight bytes an image
        self._file: BinaryIO | None = None

    @property
    def rows(self) -> int:
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        if not len(self._done):
            return False
        wanted = np.uint64(_hash(as_text(name)))  # as a plain int it would be compared in floating point
        place = int(np.searchsorted(self._done, wanted))
        return place < len(self._done) and self._done[place] == wanted

    def __enter__(self) -> ScoreLog:
        """Open the file and look at what it has; raises PluginError on one of another run, or that another writes."""
        if self.path is None:
            self._write(self._header())
            return self
        beside = self.path.with_name(f"{self.path.name}.run.json")
        there = self.path.exists()
        if there and self.path.stat().st_size:
            self._check_run(beside)
        else:
            write_atomically(beside, json.dumps(self.run, indent=1) + "\n")
        try:
            self._file = self.path.open("r+b" if there else "w+b", buffering=0)
        except OSError as error:
            raise PluginError(f"output '{self.path}': {error.strerror}; choose another") from None
        self._lock()
        self._done = np.sort(np.fromiter(map(_hash, self._whole_rows()), dtype=np.uint64))
        if not self._file.tell():
            self._write(self._header())
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

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

    def _lock(self) -> None:
        assert self._file is not None
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PluginError(f"output '{self.path}': another command writes there; wait for it") from None

    def _whole_rows(self) -> Iterator[str]:
        """The files of the rows that are whole, after cutting off one that is not; leaves the place at the end."""
        assert self._file is not None
        end = 0
        for number, line in enumerate(io.BufferedReader(_Kept(self._file))):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            if self.format == "jsonl":
                yield json.loads(line)["file"]
            elif number:
                yield next(csv.reader([line.decode()]))[0]
            elif line != self._header():
                raise PluginError(f"output '{self.path}': is no file of scores; choose another")
        self._file.truncate(end)
        self._file.seek(end)


class _Kept(io.RawIOBase):
    """A file that is read through a buffer which, once dropped, does not close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._inner = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in COLUMNS])
    return text.getvalue().encode()


def as_text(name: str) -> str:
    """A file's name with what cannot be printed as escapes: a row is one line, and two names stay two."""
    if name.isprintable():
        return name
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name
    )


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
