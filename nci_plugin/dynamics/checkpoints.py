"""The epoch checkpoints that a training loop left, and what it wrote beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nci_plugin.checks import PluginError, check_number, shown
from nci_plugin.dynamics.epoch import EpochRecord
from nci_plugin.files import read_text

EPOCH = re.compile(r"epoch[-_= ]?(\d{1,9})(?!\d)", re.IGNORECASE)
"""The number of an epoch in a file name: ``model_epoch10.ckpt``, ``epoch-10_loss0.1.ckpt``, ``epoch_010.pth``."""

SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")

COPIES = ("best", "last")
"""OpenOOD's recorder also writes ``best_epoch10_acc0.9000.ckpt``: not another network than that of epoch 10."""

SEED = re.compile(r"s(\d{1,9})")
"""Directories of seeds, as OpenOOD names them."""

HISTORIES = ("history.jsonl", "history.csv")
HISTORY_BYTES = 2**24
COLUMNS = {"train_loss": ("train_loss", "loss"), "train_accuracy": ("train_accuracy", "accuracy")}
"""Number of an EpochRecord -> its column in a history, the first that is there; accuracy in percent."""


@dataclass(frozen=True)
class CheckpointRun:
    """The checkpoints of one run by epoch, in increasing order, and the number of its seed where its directory says."""

    name: str
    directory: Path
    files: Mapping[int, Path]
    seed: int | None = None


def find_runs(paths: Sequence[Path]) -> list[CheckpointRun]:
    """The runs of some paths: each directory is one, or one for each of its ``s0``, ``s1`` ...; all files together one.

    Raises PluginError where a path has no epoch checkpoint, or two of one epoch.
    """
    files = [path for path in paths if path.is_file()]
    runs = [_run(files[0].resolve().parent, files, given=True)] if files else []
    for path in paths:
        if path in files:
            continue
        if not path.is_dir():
            raise PluginError(f"checkpoints '{path}': there is no such file or directory; pass epoch checkpoints")
        seeds = sorted((each for each in path.iterdir() if SEED.fullmatch(each.name)), key=lambda each: each.name)
        inside = [(each, _candidates(each)) for each in (path, *seeds) if each.is_dir()]
        found = [_run(each.resolve(), candidates) for each, candidates in inside if candidates]
        if not found:
            raise PluginError(
                f"checkpoints '{path}': no file is named like epoch-10_loss0.1.ckpt, epoch_010.pth or"
                f" last_epoch100_acc0.9.ckpt ({', '.join(SUFFIXES)}); save the network every few epochs, with OpenOOD"
                " --recorder.save_all_models True, or pass the files"
            )
        runs += found
    return runs


def epoch_of(path: Path) -> int | None:
    """The number after ``epoch`` in a file's name, None where there is none."""
    match = EPOCH.search(path.name)
    return int(match[1]) if match else None


def _candidates(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES and epoch_of(path) is not None]


def _run(directory: Path, files: Sequence[Path], given: bool = False) -> CheckpointRun:
    by_epoch: dict[int, Path] = {}
    for path in sorted(files, key=lambda each: (each.name.lower().startswith(COPIES), each.name)):
        epoch = epoch_of(path)
        if epoch is None:
            raise PluginError(f"checkpoint '{path}': its name must tell its epoch, as in epoch_010.ckpt; rename it")
        there = by_epoch.setdefault(epoch, path)
        if there != path and (given or not path.name.lower().startswith(COPIES)):
            raise PluginError(f"checkpoints: '{there}' and '{path}' are both of epoch {epoch}; pass those of one run")
    seed = SEED.fullmatch(directory.name)
    name = f"{directory.parent.name}_{directory.name}" if seed else directory.name
    return CheckpointRun(name, directory, dict(sorted(by_epoch.items())), int(seed[1]) if seed else None)


# -------------------------------------------------------------------- what lies beside


def read_history(directory: Path) -> dict[int, Mapping[str, Any]]:
    """The entries of a training's ``history.jsonl`` or ``history.csv`` by epoch; empty where there is none.

    An entry has ``epoch``, and as far as they were logged the COLUMNS, and ``phase``. Raises PluginError on a file that
    is something else.
    """
    for name in HISTORIES:
        with suppress(FileNotFoundError):  # the other one may be there
            return _parse_history(directory / name)
    return {}


def _parse_history(path: Path) -> dict[int, Mapping[str, Any]]:
    text = read_text(path, "history", HISTORY_BYTES, "move it away")
    try:
        lines = io.StringIO(text)
        table = pd.read_json(lines, lines=True) if path.suffix == ".jsonl" else pd.read_csv(lines)
        entries = table.to_dict("records")
        for entry in entries:
            if not float(entry["epoch"]).is_integer():
                raise PluginError(f"'epoch' must be a whole number, got {shown(entry['epoch'])}")
            for column in (each for names in COLUMNS.values() for each in names):
                check_number(f"'{column}'", 0.0 if pd.isna(value := entry.get(column, 0.0)) else float(value))
        for column in COLUMNS["train_accuracy"]:
            _check_percent(column, [float(entry[column]) for entry in entries if pd.notna(entry.get(column))])
        return {int(entry["epoch"]): {**entry, "from": path.name} for entry in entries}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, PluginError) as error:
        raise PluginError(
            f"history '{path}': expected a line an epoch with epoch, loss and accuracy ({error}); correct it or move"
            " it away"
        ) from None


def _check_percent(column: str, values: Sequence[float]) -> None:
    """Raise PluginError on what is no percentage, and where all are shares of 1 as it seems."""
    for value in values:
        check_number(f"'{column}'", value, least=0, most=100)
    if 0 < max(values, default=0) <= 1:
        raise PluginError(
            f"'{column}' must be in percent, but is at most {max(values):g}, as shares of 1 are; multiply them by 100"
        )


def with_history(record: EpochRecord, entry: Mapping[str, Any] | None) -> EpochRecord:
    """The record with the loss and the training accuracy that its training logged, as far as it did."""
    for field, names in COLUMNS.items():
        known = [float(entry[name]) for name in names if entry and pd.notna(entry.get(name))]
        if known and entry:
            source = f"{entry['from']}: as logged while training"
            record = replace(record, **{field: known[0]}, train_from=source)  # type: ignore[arg-type]
    return record
