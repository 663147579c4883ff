"""Where diagnoses lie: ``results/<name>/diagnosis/``.

``<seed>.json`` (the record) and ``<seed>.npz`` (arrays of its figures) for each network, ``network`` in the place of
the seed of a single one, ``explanation.json`` over all of them, and the figures, drawn from these files and the stored
scores alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nci_plugin.checks import PluginError, shown
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.evaluation.directory import ResultsDirectory, read_npz, write_npz
from nci_plugin.parsing import read_json, typed, write_json

if TYPE_CHECKING:  # torch, which a report without a diagnosis does not need
    from nci_plugin.diagnosis.explanation import Explanation
    from nci_plugin.diagnosis.network import Diagnosis
    from nci_plugin.diagnosis.record import DiagnosisRecord

T = TypeVar("T")

FOLDER = "diagnosis"
SINGLE = "network"
EXPLANATION = "explanation"
AGAIN = "run nci-ood diagnose again"
RECORD_BYTES = 2**27
"""The largest record: a line for each class, layer and split."""


@dataclass(frozen=True)
class Stored:
    """A diagnosis that was read back, with the scores of its detectors by detector and split."""

    name: str
    record: DiagnosisRecord
    arrays: Mapping[str, NDArray[Any]]
    scores: Mapping[str, Mapping[str, NDArray[np.floating]]]


def write_diagnosis(results: Path, seed: str, diagnosis: Diagnosis) -> None:
    """Write one network's record and arrays; the record, which makes them known, comes last."""
    path = results / FOLDER / f"{seed or SINGLE}.json"
    write_npz(path.with_suffix(".npz"), diagnosis.arrays)
    write_json(path, diagnosis.record.to_dict(), durable=False)


def write_explanation(results: Path, explanation: Explanation) -> None:
    write_json(results / FOLDER / f"{EXPLANATION}.json", asdict(explanation), durable=False)


def has_diagnosis(results: Path) -> bool:
    return (results / FOLDER / f"{EXPLANATION}.json").is_file()


def read_explanation(results: Path) -> Explanation:
    from nci_plugin.diagnosis.explanation import Explanation

    path = results / FOLDER / f"{EXPLANATION}.json"
    return _read_json(path, lambda saved: typed(Explanation, saved, "not as this version writes it"))


def read_diagnoses(results: Path) -> list[Stored]:
    """The diagnoses of a results directory, in the order of their seeds.

    Raises PluginError where there are none, and on a file that is damaged or of another version.
    """
    from nci_plugin.diagnosis.record import DiagnosisRecord

    if not has_diagnosis(results):
        raise PluginError(f"results '{results}': have no diagnosis; run nci-ood diagnose first")
    paths = [path for path in (results / FOLDER).glob("*.json") if path.stem != EXPLANATION]
    directory, found = ResultsDirectory(results), []
    for path in sorted(paths, key=lambda path: (len(path.stem), path.stem)):
        record = _read_json(path, DiagnosisRecord.from_dict)
        if (record.seed or SINGLE) != path.stem:
            raise PluginError(f"diagnosis '{path}': is of seed {shown(record.seed)}; {AGAIN}")
        stored = {detector: directory.scores(detector, record.seed) for detector in DETECTORS}
        scores = {detector: by_split for detector, by_split in stored.items() if by_split is not None}
        arrays = read_npz(path.with_suffix(".npz"), "diagnosis", AGAIN)
        found.append(Stored(path.stem, record, arrays, scores))
    return found


@contextmanager
def drawn_from(results: Path) -> Iterator[None]:
    """Tables and figures are drawn inside: what a record lacks, or has of another kind, is a PluginError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PluginError(
            f"diagnosis '{results / FOLDER}': not as this version writes it ({type(error).__name__}: {error}); {AGAIN}"
        ) from error


def _read_json(path: Path, of: Callable[[Mapping[str, Any]], T]) -> T:
    content = read_json(path, "diagnosis", AGAIN, RECORD_BYTES)
    try:
        if not isinstance(content, dict):
            raise PluginError("not a diagnosis")
        return of(content)
    except (ValueError, PluginError) as error:
        raise PluginError(f"diagnosis '{path}': cannot be read ({error}); {AGAIN}") from None
