"""Stored scores of several detectors on the same images and networks, and what a metric sets against what in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, TEST, Split
from nci_plugin.checks import PluginError, check_known, shown
from nci_plugin.comparison.bootstrap import Pairing
from nci_plugin.evaluation.directory import ResultsDirectory, read_npz
from nci_plugin.evaluation.run import Run
from nci_plugin.metrics.columns import Metric
from nci_plugin.metrics.counts import Floats


@dataclass(frozen=True)
class Samples:
    """Scores of detectors on one benchmark.

    ``scores`` maps a detector to one mapping of splits to scores (n,) for each of ``networks`` (seeds, ``""`` alone for
    a single network); ``predictions`` and ``labels`` map splits to classes (n,), again by network. Larger score = ID.
    ``left_out`` are detectors that were not scored for every network. ``missing`` says which file is not there where
    predictions and labels are empty, as in results of earlier versions.
    """

    benchmark: str
    networks: tuple[str, ...]
    scores: Mapping[str, Sequence[Mapping[str, Floats]]]
    predictions: Sequence[Mapping[str, NDArray[np.integer]]]
    labels: Sequence[Mapping[str, NDArray[np.integer]]]
    left_out: tuple[str, ...] = ()
    missing: str = ""

    @property
    def detectors(self) -> list[str]:
        return list(self.scores)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of every tested split."""
        of_first = self.labels[0] if self.labels else next(iter(self.scores.values()))[0]
        return {split: len(values) for split, values in of_first.items()}

    def check_classes(self) -> None:
        """Raise PluginError where predictions and labels are missing."""
        if self.missing:
            raise PluginError(self.missing)

    def wrong(self, network: int, splits: Sequence[str]) -> NDArray[np.bool_]:
        """Which ID samples of some splits, one after the other, a network predicts wrongly.

        Raises PluginError where predictions and labels are missing.
        """
        self.check_classes()
        parts = [self.predictions[network][split] != self.labels[network][split] for split in splits]
        return np.concatenate(parts)

    def groups(self, metric: Metric, setting: str) -> dict[str, list[Pairing]]:
        """What the metric is computed on, by group; the value of a group is the mean over its pairings.

        Raises PluginError if the setting or the metric needs covariate-shifted sets and there are none.
        """
        of = {
            group: [split for split in self.sizes if Split.parse(split).group == group] for group in (CSID, NEAR, FAR)
        }
        if not of[CSID] and (setting == "fsood" or metric.samples != "ood"):
            what = "the full spectrum" if metric.samples == "ood" else metric.label
            raise PluginError(
                f"benchmark '{self.benchmark}': has no covariate-shifted set, which {what} needs; add one under 'csid'"
            )
        if metric.samples == "csid":
            return {CSID: [Pairing((TEST,), split) for split in of[CSID]]}
        if metric.samples == "csid_near":
            if not of[NEAR]:
                raise PluginError(f"benchmark '{self.benchmark}': has no near-OOD set, which {metric.label} needs")
            return {NEAR: [Pairing(tuple(of[CSID]), split) for split in of[NEAR]]}
        id_splits = (TEST, *(of[CSID] if setting == "fsood" else ()))
        return {group: [Pairing(id_splits, split) for split in of[group]] for group in (NEAR, FAR) if of[group]}


def read_samples(paths: Sequence[Path], detectors: Sequence[str] | None = None) -> list[Samples]:
    """The stored scores of some results directories, one `Samples` for each benchmark in them.

    Directories of one benchmark must be of the same networks and images; a detector that several of them hold is named
    ``detector@directory``. ``detectors`` chooses some by name. Raises PluginError about what is missing or differs.
    """
    stored = [_Stored(path) for path in dict.fromkeys(paths)]
    by_benchmark: dict[str, list[_Stored]] = {}
    for each in stored:
        by_benchmark.setdefault(each.benchmark, []).append(each)
    for name in detectors or ():
        check_known("detector", name, {known for each in stored for known in each.run.detectors})
        for each in stored:
            each.run.check_complete(name)
    return [_merged(group, detectors) for group in by_benchmark.values()]


class _Stored:
    """One results directory: its rows, and predictions and labels of its networks."""

    def __init__(self, path: Path) -> None:
        self.path, self._directory = path, ResultsDirectory(path)
        self.run = Run.read(path)
        self.rows = self.run.rows()
        self.benchmark, self.networks = self.run.benchmark, tuple(self.run.seeds)
        self.detectors, self.incomplete = self.run.select(), self.run.incomplete
        paths = [self.path / seed / "scores" / "predictions.npz" for seed in self.networks]
        lacking = [path for path in paths if not path.is_file()]
        self.missing = f"predictions '{lacking[0]}': are missing; {self._command()}" if lacking else ""
        if 0 < len(lacking) < len(paths):  # no earlier version left that
            raise PluginError(self.missing)
        answers = [self._answers(path) for path in paths if not lacking]
        self.predictions = [_of_kind(each, "predictions") for each in answers]
        self.labels = [_of_kind(each, "labels") for each in answers]

    def _answers(self, path: Path) -> dict[str, NDArray[np.integer]]:
        """Predictions and labels of the tested splits of one network."""
        arrays = read_npz(path, "predictions", self._command())
        of_rows = {f"{row.group}/{row.dataset}" for row in self.rows if row.dataset not in GROUP_ROWS.values()}
        tested = {split for split in (name.rpartition("/")[0] for name in arrays) if Split.parse(split).is_tested}
        for split in sorted({TEST, *of_rows, *tested}):
            if not split.isprintable():
                raise PluginError(f"predictions '{path}': a split is named {shown(split)}; {self._command()}")
            predictions, labels = (arrays.get(f"{split}/{kind}") for kind in ("predictions", "labels"))
            if not (_whole(predictions) and _whole(labels) and len(predictions) == len(labels)):  # type: ignore[arg-type]
                raise PluginError(
                    f"predictions '{path}': '{split}' must have a predicted class and a label, whole numbers, for every"
                    f" sample; {self._command()}"
                )
        return {name: array for name, array in arrays.items() if name.rpartition("/")[0] in tested}

    def scores(self, detector: str) -> list[dict[str, Floats]]:
        """Scores of one detector by split, for each network; raises PluginError unless they are those of the rows."""
        return [self._scores(detector, seed, self._sizes(place)) for place, seed in enumerate(self.networks)]

    def _sizes(self, place: int) -> dict[str, int]:
        """Samples of every tested split: without labels, those that the first detector scored."""
        if self.labels:
            return {split: len(labels) for split, labels in self.labels[place].items()}
        first = self._directory.scores(self.detectors[0], self.networks[place]) or {}
        sizes = {split: int(np.size(array)) for split, array in first.items() if Split.parse(split).is_tested}
        return {TEST: 0, **sizes}

    def _scores(self, detector: str, seed: str, sizes: Mapping[str, int]) -> dict[str, Floats]:
        where = f"scores of '{detector}' in '{self.path / seed}'"
        arrays = self._directory.scores(detector, seed)
        if arrays is None:
            raise PluginError(f"{where}: are missing; {self._command(detector)}")
        for split, size in sizes.items():
            array = arrays.get(split)
            if array is None or array.shape != (size,) or array.dtype.kind != "f":
                came = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise PluginError(
                    f"{where}: '{split}' must be {size} numbers, one a sample, got {came}; {self._command(detector)}"
                )
        for row in self.rows:
            split = f"{row.group}/{row.dataset}"
            if (row.detector, row.seed) == (detector, seed) and split in sizes and row.n_ood != sizes[split]:
                raise PluginError(
                    f"{where}: '{split}' has {sizes[split]} samples and its row {row.n_ood}; they are of"
                    f" different runs: {self._command(detector)}"
                )
        return {split: arrays[split] for split in sizes}

    def _command(self, detector: str | None = None) -> str:
        """What to run to have what is missing."""
        names = f" --detectors {quote(detector)}" if detector else ""
        command = f"nci-ood eval {quote(self.benchmark)}{names} --output {quote(str(self.path))}"
        return f"run: {command}, with the options of that run"


def _whole(array: NDArray[Any] | None) -> bool:
    """Whether these are whole numbers (n,)."""
    return array is not None and array.ndim == 1 and array.dtype.kind in "iu"


def _of_kind(arrays: Mapping[str, NDArray[np.integer]], kind: str) -> dict[str, NDArray[np.integer]]:
    return {name.rpartition("/")[0]: array for name, array in arrays.items() if name.rpartition("/")[2] == kind}


def _merged(stored: Sequence[_Stored], wanted: Sequence[str] | None) -> Samples:
    first = stored[0]
    for other in stored[1:]:
        for each in (first, other):
            if each.missing:  # whether the images are the same cannot be seen
                raise PluginError(each.missing)
        _check_same(first, other)
    scores: dict[str, Sequence[Mapping[str, Floats]]] = {}
    held = [name for each in stored for name in each.detectors]
    for place, each in enumerate(stored):
        for detector in each.detectors:
            if wanted and detector not in wanted:
                continue
            name = detector if held.count(detector) == 1 else f"{detector}@{each.path.name}"
            scores[f"{name} ({place + 1})" if name in scores else name] = each.scores(detector)
    scores = {name: scores[name] for name in wanted or () if name in scores} | scores  # in the order asked for
    left_out = tuple(name for each in stored for name in each.incomplete if not wanted)
    return Samples(first.benchmark, first.networks, scores, first.predictions, first.labels, left_out, first.missing)


def _check_same(first: _Stored, other: _Stored) -> None:
    where = f"results '{other.path}': are of the benchmark of '{first.path}', '{first.benchmark}', but"
    if first.networks != other.networks:
        raise PluginError(
            f"{where} of the networks {shown(', '.join(other.networks))}, not {shown(', '.join(first.networks))};"
            " compare runs of the same networks"
        )
    for place, seed in enumerate(first.networks):
        compared = {"labels": (first.labels, other.labels), "predictions": (first.predictions, other.predictions)}
        for what, (one, two) in compared.items():
            if not _same(one[place], two[place]):
                network = f" of {seed}" if seed else ""
                raise PluginError(f"{where} the {what}{network} differ; compare runs on the same images and networks")


def _same(one: Mapping[str, NDArray[np.integer]], two: Mapping[str, NDArray[np.integer]]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[split], two[split]) for split in one)
