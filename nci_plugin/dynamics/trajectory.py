"""One training run in numbers, epoch by epoch, and the file that it is logged to while it runs.

``trajectory.jsonl``: a header (version, run, conditions), then a line an epoch, each with a checksum of itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Union

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nci_plugin.checks import PluginError, check_number, check_row_name, did_you_mean
from nci_plugin.dynamics.epoch import NUMBERS, EpochRecord, Value
from nci_plugin.files import read_text, write_atomically
from nci_plugin.parsing import checked_line, read_checked_line, typed

logger = logging.getLogger(__name__)

VERSION = 1
FILE_NAME = "trajectory.jsonl"
FILE_BYTES = 2**28
"""The largest such file."""

FN = "mean_norm_l2"
"""Field of CollapseMetrics that the dynamics paper (arXiv 2604.00230) calls fn: mean ||h||_2 over the training set."""

GROUPS = ("near", "far", "fsood near", "fsood far")
"""Groups of OOD sets in ``EpochRecord.auroc``; ``fsood``: covariate-shifted samples count as ID."""

LAST_PHASE = "last"
"""Stands for the phase that a run is in at its end: the squared error's in the protocol of arXiv 2604.00230."""

Condition = Union[str, float, int, bool]


@dataclass(frozen=True)
class Trajectory:
    """A run: its conditions (architecture, data, loss, depth, seed ...) and its records by increasing epoch."""

    run: str
    conditions: Mapping[str, Condition]
    records: Sequence[EpochRecord]

    def __repr__(self) -> str:
        epochs = f", {self.records[0].epoch} to {self.records[-1].epoch}" if self.records else ""
        return f"Trajectory({self.run!r}, {len(self.records)} records{epochs})"

    @property
    def epochs(self) -> NDArray[np.int64]:
        return np.array([record.epoch for record in self.records], dtype=np.int64)

    @property
    def _names(self) -> list[str]:
        """Of the ``numbers`` of some record."""
        return list(dict.fromkeys((*NUMBERS, *(key for record in self.records for key in record.numbers))))

    def series(self, name: str) -> NDArray[np.float64]:
        """A number of each record, (epochs,), NaN where it has none.

        ``name`` is one of its ``numbers``, or ``train_error`` (percent). Raises PluginError where no record knows the
        name.
        """
        if name == "train_error":
            return 100 - self.series("train_accuracy")
        known = self._names
        if name not in known:
            raise PluginError(
                f"run '{self.run}': logs no '{name}'{did_you_mean(name, known)}; it logs {', '.join(known)}"
            )
        return _array(record.numbers.get(name) for record in self.records)

    def logs(self, name: str) -> bool:
        """Whether `series` of the name has a number at some epoch."""
        return name in ("train_error", *self._names) and bool(np.isfinite(self.series(name)).any())

    def to_frame(self) -> pd.DataFrame:
        """A row an epoch, for pandas: every one of a record's ``numbers``; NaN where there is none."""
        numbers = {name: self.series(name) for name in self._names}
        return pd.DataFrame(numbers, index=pd.Index(self.epochs, name="epoch"))

    def auroc(self, detector: str, group: str) -> NDArray[np.float64]:
        """AUROC of a detector on a group in percent, (epochs,), NaN where it was not measured."""
        return _array(record.auroc.get(detector, {}).get(group) for record in self.records)

    def in_phase(self, name: str) -> Trajectory:
        """The records of one phase, or of the LAST_PHASE, their epochs as they are; the run where it has no phases."""
        if not any(record.phase for record in self.records):
            return self
        if name == LAST_PHASE:
            name = self.records[-1].phase
        return replace(self, records=[record for record in self.records if record.phase == name])


def _array(values: Iterable[Value]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


@dataclass(frozen=True)
class _Header:
    version: int
    run: str
    conditions: Mapping[str, Any]


class TrajectoryFile:
    """The file of a run that is being logged: what is in it already, and `add`. Without a path it is in memory alone.

    A line that a kill cut is dropped, with a line on standard error, and can be logged again. Raises PluginError where
    the file is of another run or other conditions, or damaged in any other way.
    """

    def __init__(self, path: Path | None, run: str, conditions: Mapping[str, Condition]) -> None:
        _check_run(run)
        self.path, self.run, self.conditions = path, run, dict(conditions)
        self.records: dict[int, EpochRecord] = {}
        """What is logged, by epoch."""
        there, whole = _parse(path) if path is not None and path.exists() else (None, False)
        if there is not None:
            if _header(there) != _header(self.trajectory):
                raise PluginError(
                    f"trajectory '{path}': is of run '{there.run}' under other conditions; move it away, or choose"
                    " another --output"
                )
            self.records = {record.epoch: record for record in there.records}
        if not whole:
            self._rewrite()

    @property
    def trajectory(self) -> Trajectory:
        return Trajectory(self.run, self.conditions, [self.records[epoch] for epoch in sorted(self.records)])

    def add(self, record: EpochRecord) -> None:
        """Log an epoch; one of the same number is replaced."""
        replaces = record.epoch in self.records
        self.records[record.epoch] = record
        if replaces or self.path is None:
            self._rewrite()
            return
        try:
            with open(self.path, "ab") as file:
                file.write(_line(asdict(record)).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PluginError(
                f"cannot write '{self.path}': {error.strerror or error}; free space or choose another directory"
            ) from None

    def _rewrite(self) -> None:
        if self.path is not None:
            lines = [_line(asdict(record)) for record in self.trajectory.records]
            write_atomically(self.path, "".join([_header(self.trajectory), *lines]))


def read_trajectory(path: Path) -> Trajectory:
    """The run in a file, or in the ``trajectory.jsonl`` of a directory; a last line that was cut is left out.

    Raises PluginError if it is missing or damaged in any other way.
    """
    path = path / FILE_NAME if path.is_dir() else path
    trajectory, _ = _parse(path)
    if trajectory is None:
        raise PluginError(f"trajectory '{path}': holds not even a whole header; log the run again")
    return trajectory


def find_trajectories(path: Path) -> list[Path]:
    """Every ``trajectory.jsonl`` at or below a directory, sorted; such a file itself."""
    return [path] if path.name == FILE_NAME else sorted(path.rglob(FILE_NAME))


def _check_run(name: str) -> None:
    """The gate of names for a run's, which may be that of a directory in another: ``cifar10_resnet18/s0``."""
    for part in name.split("/"):
        check_row_name("run", part)


def _parse(path: Path) -> tuple[Trajectory | None, bool]:
    """What a file holds, None without a whole header; and whether its last line is whole."""
    text = read_text(path, "trajectory", FILE_BYTES, "log the run again, or move it away")
    *lines, rest = text.split("\n")
    if rest:
        logger.warning("%s: line %d was cut by a kill, it is left out", path, len(lines) + 1)
    if not lines:
        return None, False
    header = Trajectory("", {}, [])
    records: dict[int, EpochRecord] = {}
    for number, line in enumerate(lines, start=1):
        try:
            if number == 1:
                header = _read_header(line)
                continue
            record: EpochRecord = typed(EpochRecord, _read_line(line), "epoch")
            if record.epoch in records:
                raise PluginError(f"epoch {record.epoch} stands there twice")
            records[record.epoch] = record
        except (ValueError, RecursionError, PluginError) as error:
            remedy = "log the run again" if number == 1 else "remove that line, or log the run again"
            raise PluginError(f"trajectory '{path}' line {number}: {error}; {remedy}") from None
    return replace(header, records=[records[epoch] for epoch in sorted(records)]), not rest


def _read_header(line: str) -> Trajectory:
    """The run of a header, without records."""
    header: _Header = typed(_Header, _read_line(line), "header")
    if header.version != VERSION:
        raise PluginError(f"is of version {header.version}, this is {VERSION}")
    _check_run(header.run)
    for name, value in header.conditions.items():
        if not isinstance(value, (str, bool)):
            check_number(f"condition {name}", value)
    return Trajectory(header.run, header.conditions, [])


def _header(trajectory: Trajectory) -> str:
    return _line(asdict(_Header(VERSION, trajectory.run, dict(trajectory.conditions))))


def _line(content: Mapping[str, Any]) -> str:
    return checked_line(content, allow_nan=False) + "\n"


def _read_line(line: str) -> dict[str, Any]:
    raw, unchanged = read_checked_line(line)
    if not unchanged:
        raise PluginError("not a line that this version wrote, its checksum differs")
    return raw
