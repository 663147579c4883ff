"""Where the results of a run lie: ``results/<name>/``, in OpenOOD's layout. Stored here, drawn by the report."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, TEST, Split
from nci_plugin.checks import PluginError, check_row_name, check_writable, shown
from nci_plugin.evaluation import identity
from nci_plugin.evaluation.identity import Identity
from nci_plugin.evaluation.results import PREDICTIONS, SETTINGS, Result, file_name, is_over_seeds, read_results, to_csv
from nci_plugin.files import move_aside, read_file, write_atomically

if TYPE_CHECKING:
    from nci_plugin.evaluation.evaluation import Evaluation
    from nci_plugin.features.bank import FeatureBank

FIGURE = "auroc.png"
logger = logging.getLogger(__name__)

PROBE, PROBE_ROWS = f"{TEST}/probe", 8
"""Beside predictions and labels the features of the first test images, by which a network is known again."""

PROBE_TOLERANCE = 0.05
"""Relative to the largest of them: bfloat16 and TF32 on other devices and batch sizes differ by less."""
PATTERNS = ("results.jsonl", FIGURE, "ood/*.csv", "fsood/*.csv", "**/scores/*.npz", "**/scores/*.pkl")
"""The files of a run."""

SPLIT_GROUPS = ("id", "ood", CSID, NEAR, FAR)
"""The first part of the name of a split."""

NPZ_BYTES = 2**29
"""The most that scores, predictions or arrays of a diagnosis take, in the file and in memory."""

TABLE_BYTES = 2**24
"""The largest CSV of one detector."""


PARAMETERS = "other hyper-parameters"
OTHER = {"detector": "another detector of that name", "formula": "another version of its formula"}
"""What differs between two seeds, by its key in the provenance; else hyper-parameters do."""


class ResultsDirectory:
    """The files of one run.

    ``results.jsonl`` (one Result a line), ``ood/<detector>.csv`` and ``fsood/<detector>.csv`` (OpenOOD's tables),
    ``auroc.png``, and for each seed ``<seed>/scores/<detector>.npz`` (scores by split) and
    ``<seed>/scores/predictions.npz``. Other detectors' files of an earlier run on the same networks and data stay;
    results of other networks are never mixed in. OpenOOD's own CSV files have the same names: they are moved aside.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, ...], str] = {}
        self._before: list[Result] = []

    @property
    def results_file(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def digests(self) -> Path:
        """Where the digests of image files are kept, so that an image that was not touched is not read again."""
        return self.path / identity.FOLDER

    @property
    def detectors(self) -> list[str]:
        """Those that rows are of, since `begin`."""
        return list(dict.fromkeys(detector for detector, *_ in self._lines))

    def open(self, identities: Mapping[str, Identity]) -> None:
        """Check that results can be written here and that those already here came from the same.

        ``identities`` maps each seed to all fields of `identity`. Raises PluginError, which names the fields, where
        rows that lie here came from something else, or do not record what they came from.
        """
        check_writable(self.path)
        for pattern in PATTERNS:
            for path in self.path.glob(pattern):
                if path.exists() and not path.is_file():
                    raise PluginError(f"output '{path}': must be a regular file; move it away")
        self._before = self.read()
        provenances = [result.provenance for result in self._before]
        differ: dict[str, None] = {}
        for result in self._before:
            now = identities.get(result.seed, {})
            then = result.provenance if now else {"weights": ""}  # of a network that is not evaluated now
            differ.update(dict.fromkeys(identity.differences(then, now, result.seed)))
        if differ:
            raise PluginError(
                f"output '{self.path}': holds results of another run ({', '.join(differ)} differ); choose another"
                " --output, or move them away"
            )
        if missing := identity.unrecorded(provenances):
            raise PluginError(
                f"output '{self.path}': holds rows of an earlier version, {missing}; choose"
                " another --output, or move them away"
            )

    def read(self) -> list[Result]:
        return read_results(self.results_file) if self.results_file.exists() else []

    def read_one_benchmark(self) -> list[Result]:
        """The rows; raises PluginError unless there are some, all of one benchmark and of one identity."""
        if not self.results_file.is_file():
            raise PluginError(
                f"results '{self.path}': there is no {self.results_file.name}; pass the directory that 'nci-ood eval'"
                " wrote to"
            )
        found = self.read()
        names = list(dict.fromkeys(result.benchmark for result in found))
        if len(names) != 1:
            raise PluginError(
                f"results '{self.path}': must be of one benchmark, got {', '.join(names) or 'no rows'}; evaluate again"
            )
        self._check_whole(found)
        self._check_settings(found)
        if differ := identity.disagreements([(result.seed, result.provenance) for result in found]):
            raise PluginError(
                f"results '{self.path}': its rows are of different runs ({', '.join(differ)} differ); evaluate again"
                " into another directory"
            )
        return found

    def _check_whole(self, results: Sequence[Result]) -> None:
        """Raise PluginError if a row is there twice, or not for every detector and seed of its setting."""
        counts = Counter((result.setting, result.detector, result.seed, result.dataset) for result in results)
        names = {setting: sorted({r.dataset for r in results if r.setting == setting}) for setting in SETTINGS}
        for result in results:
            for name in names[result.setting]:
                if (count := counts[result.setting, result.detector, result.seed, name]) != 1:
                    raise PluginError(
                        f"results '{self.path}': '{result.detector}'{f' of {result.seed}' if result.seed else ''} has"
                        f" {count} rows of '{name}' in '{result.setting}', where there must be one; evaluate again"
                    )

    def _check_settings(self, results: Sequence[Result]) -> None:
        """Raise PluginError if a detector was configured otherwise for one seed than for another.

        Another run with other values that ended between two seeds, or failed on one of them, leaves such rows.
        """
        first: dict[tuple[str, str], tuple[str, str]] = {}
        for result in results:
            for name in ("detector", "sweep", "configured", "formula"):
                if name not in result.provenance:
                    continue  # of an earlier version
                value = json.dumps(result.provenance[name], sort_keys=True)
                seed, before = first.setdefault((result.detector, name), (result.seed, value))
                if value != before:
                    raise PluginError(
                        f"results '{self.path}': '{result.detector}' was evaluated with"
                        f" {OTHER.get(name, PARAMETERS)} for {seed} than for {result.seed}: its last run"
                        " did not end for all seeds; evaluate it again"
                    )

    def scores(self, detector: str, seed: str) -> dict[str, np.ndarray] | None:
        """Stored scores of one detector and network by split, None where they are not here."""
        path = self.scores_file(detector, seed)
        if not path.exists():
            return None
        found = read_npz(path, "scores", "evaluate again")
        for split, scores in found.items():
            group, name = Split.parse(split)
            check_row_name(f"scores '{path}': split", name)
            if group not in SPLIT_GROUPS or scores.ndim != 1 or scores.dtype.kind not in "fiu" or not len(scores):
                raise PluginError(
                    f"scores '{path}': '{shown(split)}' must be numbers of one split, got {scores.dtype} of shape"
                    f" {scores.shape}; evaluate again"
                )
            if not np.isfinite(scores).all():
                raise PluginError(f"scores '{path}': '{split}' holds NaN or infinity; evaluate again")
        if TEST not in found:
            raise PluginError(f"scores '{path}': '{TEST}' is missing; evaluate again")
        return found

    def scores_file(self, detector: str, seed: str) -> Path:
        return self.path / seed / "scores" / f"{file_name(detector)}.npz"

    def begin(self, bank: FeatureBank, seed: str) -> None:
        """Write predictions and labels of one network, before its detectors' results are added.

        Raises PluginError if results of the same network that lie here already were made from other features, for a
        reason that their identity does not know: old and new rows cannot stand side by side.
        """
        here = self.read()
        self._lines = {result.key: result.to_json() for result in here}
        for result in here:
            then, now = result.provenance, bank.provenance
            same_network = result.seed == seed and then.get("fingerprint") == now["fingerprint"]
            if same_network and then.get("features") != now["features"]:
                raise PluginError(
                    f"output '{self.path}': holds results made from other features of the same images (code that the"
                    " network's files import was changed, or another machine rounds otherwise); choose another"
                    " --output, or move them away"
                )
        path = self.scores_file(PREDICTIONS, seed)
        probe = bank.splits[TEST].features[:PROBE_ROWS].float().numpy()
        if path.exists() and any(result.seed == seed for result in here):
            self._check_probe(read_npz(path, "predictions", "evaluate again into another --output").get(PROBE), probe)
        answers = {PROBE: probe}
        for name, split in bank.splits.items():
            answers[f"{name}/predictions"] = split.predictions.numpy()
            answers[f"{name}/labels"] = split.labels.numpy()
        write_npz(path, answers)

    def _check_probe(self, before: np.ndarray | None, now: np.ndarray) -> None:
        """Raise PluginError if the network gives other features than those of the rows here, whatever it runs on."""
        if before is None:  # of an earlier version
            return
        if before.shape != now.shape or np.abs(before - now).max() > PROBE_TOLERANCE * np.abs(now).max():
            raise PluginError(
                f"output '{self.path}': holds results of a network that gave other features of the first test images"
                " (an attribute of it, or code that its files import, was changed); choose another --output, or move"
                " them away"
            )

    def add(self, evaluation: Evaluation, seed: str) -> None:
        """Write scores and result rows of one network; rows of the same detectors and seed are replaced."""
        for detector, by_split in evaluation.scores.items():
            write_npz(self.scores_file(detector, seed), by_split)
        for result in evaluation.results:
            self._lines.pop(result.key, None)  # a row that is replaced moves to the end
            self._lines[result.key] = result.to_json()
        write_atomically(self.results_file, "".join(f"{line}\n" for line in self._lines.values()), durable=False)

    def write_tables(self, results: Sequence[Result]) -> None:
        """Write OpenOOD's CSV for every detector and setting of ``results``."""
        over_seeds = is_over_seeds(results)
        for detector, setting in dict.fromkeys((result.detector, result.setting) for result in results):
            path = self.path / setting / f"{file_name(detector)}.csv"
            text = to_csv(results, detector, setting, over_seeds)
            if path.exists():
                there = read_file(path, "output", TABLE_BYTES, "move it away")
                if there not in (text.encode(), self._csv_before(detector, setting)):
                    make_way(path)
            write_atomically(path, text)

    def written(self) -> list[str]:
        """What is here now, as names relative to the directory."""
        return [pattern for pattern in PATTERNS if next(self.path.glob(pattern), None) is not None]

    def _csv_before(self, detector: str, setting: str) -> bytes | None:
        """The CSV that the rows which lay here gave, None where there were none."""
        rows = [row for row in self._before if (row.detector, row.setting) == (detector, setting)]
        return to_csv(rows, detector, setting, is_over_seeds(rows)).encode() if rows else None


def make_way(path: Path) -> None:
    """Move aside a file of somebody else's that is where one of ours is to be."""
    logger.info("%s: not written by nci_plugin, moved aside to %s", path, move_aside(path).name)


def read_npz(path: Path, what: str, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of a file, of numbers or texts; nothing in it is unpickled.

    Raises PluginError, which names it as ``what`` and says what to do, if it is damaged, no regular file, or would
    take more memory than such a file can need.
    """
    data = read_file(path, what, NPZ_BYTES, remedy)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            inflated = sum(member.file_size for member in members.infolist())
        if inflated > NPZ_BYTES:
            raise ValueError(f"its arrays would take {inflated / 2**20:.0f} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise many types on bytes that are no npz
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PluginError(f"{what} '{path}': cannot be read ({reason}); {remedy}") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]  # its stubs take names for options
    write_atomically(path, buffer.getvalue(), durable=False)  # made again by the same command
