"""A fitted detector as one safetensors file: tensors, and one text of JSON that says what they are.

Nothing is unpickled and no code is named: a file that was changed is refused, or at worst scores wrongly.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from nci_plugin import __version__
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.checks import PluginError, check_choice, check_keys, check_number, one_line, plain_number, shown
from nci_plugin.deploy.calibration import Calibration, check_enough, least_samples
from nci_plugin.deploy.images import check_class_names
from nci_plugin.deploy.network import Fingerprint, Probe, check_image_shape
from nci_plugin.deploy.preprocessing import check_size
from nci_plugin.deploy.state import detector_from, forget_scored, state_of
from nci_plugin.detectors.base import Detector
from nci_plugin.features.fingerprint import tensor_bytes
from nci_plugin.files import digest, read_file, write_atomically

FORMAT = 1
KEY = "nci_plugin"
"""The name of the text in the file's metadata."""

ROWS, SETTINGS = {"train", "validation_fit", "calibration"}, {"tpr", "by_class", "seed"}
KEYS = (
    *("format", "detector", "formula", "hyperparameters", "learned", "chosen_by", "network", "preprocessing"),
    *("class_names", "rows", "settings", "versions"),
)
TENSORS = {"calibration.scores", "calibration.classes", "probe.features", "probe.logits", "probe.scores"}
LEARNED = "learned."
"""What the name of a tensor begins with that the detector learned."""

SAME_SCORE = 1e-3
"""Largest relative difference of a probe's scores that another processor or version explains."""

FILE_BYTES = 2**36
AGAIN = "save the detector again"
KEEP = (
    "keep all that _fit learns in attributes that end in an underscore, give hyper-parameters defaults, and draw no"
    " random numbers in _score"
)
"""What a detector of the user's must do, to come out of its file as it went in."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted detector, the network that it belongs to, how its images are preprocessed and what calibrates it.

    ``head`` is the name of the network's last linear layer (see `inner_name`), ``rows`` say how many images fitted,
    tuned (``validation_fit``) and calibrated it, and ``settings`` are those of OODDetector.
    """

    detector: Detector
    network: Fingerprint
    head: str
    probe: Probe
    probe_scores: Tensor
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]
    calibration: Calibration
    rows: Mapping[str, int]
    settings: Mapping[str, Any]
    chosen_by: str

    def level(self, tpr: float | None) -> float:
        """The share of ID images to be called ID: ``tpr``, or what was set before fitting where that is None.

        Raises PluginError on one that is no share, or that these calibration samples are too few for.
        """
        if tpr is None:
            return self.settings["tpr"]
        tpr = plain_number(tpr)
        check_enough(len(self.calibration), tpr)
        return tpr


def checked_path(path: Any) -> Path:
    """The path of a file; raises PluginError on what is no path, and on a directory."""
    if not isinstance(path, (str, os.PathLike)) or os.path.isdir(path):  # of a name too long pathlib's raises
        raise PluginError(
            f"detector file: must be the path of a file, got {shown(path)}; pass detector.safetensors, say"
        )
    return Path(path)


def write(fitted: Fitted, path: Path) -> None:
    """Write the file whole or not at all; raises PluginError on a detector that cannot be stored."""
    state = state_of(fitted.detector)
    calibration = fitted.calibration
    tensors = {
        **{f"{LEARNED}{name}": tensor for name, tensor in state.tensors.items()},
        "calibration.scores": torch.from_numpy(calibration.scores.copy()),
        "calibration.classes": torch.from_numpy(calibration.classes.astype(np.int64)),
        "probe.features": fitted.probe.features,
        "probe.logits": fitted.probe.logits,
        "probe.scores": fitted.probe_scores,
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    record = {
        "format": FORMAT,
        **state.values,
        "chosen_by": fitted.chosen_by,
        "network": {**asdict(fitted.network), "head": fitted.head, "image_shape": list(fitted.probe.shape)},
        "preprocessing": fitted.preprocessing and asdict(fitted.preprocessing),
        "class_names": list(fitted.class_names),
        "rows": dict(fitted.rows),
        "settings": dict(fitted.settings),
        "versions": {
            "nci_plugin": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
    }
    where = f"detector file '{path}': is not written, as it could not be read back"
    _read_back(json.loads(json.dumps(record, allow_nan=False)), tensors, where, KEEP)
    text = json.dumps({**record, "checksum": _checksum(record, tensors)})
    write_atomically(path, safetensors.torch.save(tensors, {KEY: text}))


def read(path: Path) -> Fitted:
    """Read what `write` wrote; raises PluginError on anything else, and where a byte of it was changed."""
    where = f"detector file '{path}'"
    data = read_file(path, "detector file", FILE_BYTES, "pass a file that 'nci-ood fit' or OODDetector.save wrote")
    record, tensors = _parsed(data, where)
    if type(record.get("format")) is not int or record["format"] != FORMAT:
        raise PluginError(f"{where}: is of format {shown(record.get('format'))}, this version reads {FORMAT}; {AGAIN}")
    if record.pop("checksum", None) != _checksum(record, tensors):
        raise PluginError(f"{where}: is damaged or was changed (its checksum differs); fetch it again, or {AGAIN}")
    return _read_back(record, tensors, where, AGAIN)


def _read_back(record: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, remedy: str) -> Fitted:
    """What a record and its tensors say; errors (PluginError) begin with ``where`` and end with ``remedy``."""
    try:
        return _fitted(record, tensors, where)
    except PluginError as error:
        raise error if str(error).startswith(where) else PluginError(f"{where}: {error}; {remedy}") from None
    except Exception as error:  # of code that was given tensors and values of any shape and kind
        reason = f"{type(error).__name__}: {str(error)[:160]}"
        raise PluginError(f"{where}: cannot be used ({one_line(reason)}); {remedy}") from None


def _parsed(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        record = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
        if not isinstance(record, dict):
            raise TypeError("no record")
    except Exception as error:  # of safetensors, and of what stands in another file's place
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise PluginError(f"{where}: is no detector file ({reason}); pass one that OODDetector.save wrote") from None
    return record, tensors


def _fitted(record: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Fitted:
    check_keys(where, record, KEYS, KEYS)
    names = ("detector", "formula", "hyperparameters", "learned")
    learned = {name.removeprefix(LEARNED): each for name, each in tensors.items() if name.startswith(LEARNED)}
    other = {name for name in tensors if not name.startswith(LEARNED)} ^ TENSORS
    if other:
        raise PluginError(f"the tensor {shown(min(other))} is missing, or nothing of a detector")
    network = dict(record["network"])
    head, shape = network.pop("head"), tuple(network.pop("image_shape"))
    settings = record["settings"]
    found = Fitted(
        detector=detector_from({name: record[name] for name in names}, learned, where),
        network=Fingerprint(**network),
        head=head,
        probe=Probe(shape, tensors["probe.features"], tensors["probe.logits"]),
        probe_scores=tensors["probe.scores"],
        preprocessing=_preprocessing(record["preprocessing"], where),
        class_names=_texts(record["class_names"]),
        calibration=Calibration(
            tensors["calibration.scores"].numpy(), tensors["calibration.classes"].numpy(), settings["by_class"]
        ),
        rows=record["rows"],
        settings=settings,
        chosen_by=str(record["chosen_by"]),
    )
    _check(found)
    return found


def _check(found: Fitted) -> None:
    """Raise PluginError unless what a file says holds together: its checksum only says that it is as it was written."""
    scores, classes = found.calibration.scores, found.calibration.classes
    if scores.ndim != 1 or scores.dtype.kind != "f" or not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
        raise PluginError("the calibration scores are not finite numbers in ascending order")
    (_, width), (count, num_classes) = found.probe.features.shape, found.probe.logits.shape
    if (
        classes.shape != scores.shape
        or classes.dtype.kind != "i"
        or not ((classes >= 0) & (classes < num_classes)).all()
    ):
        raise PluginError(f"the calibration classes are not one of {num_classes} classes for each score")
    check_image_shape(found.probe.shape)
    check_size(found.preprocessing, found.probe.shape)
    if found.class_names:
        check_class_names(found.class_names, num_classes)
    if set(found.rows) != ROWS or not all(type(each) is int and each >= 0 for each in found.rows.values()):
        raise PluginError(f"rows must be the numbers {', '.join(sorted(ROWS))}, got {shown(found.rows)}")
    if set(found.settings) != SETTINGS:
        raise PluginError(f"settings must be {', '.join(sorted(SETTINGS))}, got {shown(found.settings)}")
    least_samples(found.settings["tpr"])
    check_choice("by_class", found.settings["by_class"], (True, False))
    check_number("seed", found.settings["seed"], least=0, whole=True, most=2**63 - 1)
    for name, value in vars(found.detector).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.isnan().any():
            raise PluginError(f"{name} holds NaN")
    # Only the detector's own equation knows which tensors it needs, and of which shapes.
    given = found.detector.score(found.probe.features, found.probe.logits)
    forget_scored(found.detector)
    then = found.probe_scores
    if given.shape != then.shape or not bool(_near(given, then).all()):
        raise PluginError(f"this version of '{found.detector.name}' scores otherwise")
    if width != found.detector.num_features_ or count != len(found.probe.features):
        raise PluginError("the probe's features and logits are not of one network")


def _near(given: Tensor, then: Tensor) -> Tensor:
    """Which scores are the same but for rounding; NaN, of a network that takes no negative numbers, say, is NaN."""
    same = (given == then) | (given.isnan() & then.isnan())
    return same | ((given - then).abs() <= SAME_SCORE * then.abs().clamp(min=1))


def _preprocessing(raw: Mapping[str, Any] | None, where: str) -> Preprocessing | None:
    if raw is None:
        return None
    made = Preprocessing(**{**raw, "normalization": tuple(tuple(row) for row in raw["normalization"])})
    made.check(where)
    return made


def _texts(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list):
        raise TypeError("class_names is no list")
    return tuple(one_line(each) if isinstance(each, str) else each for each in raw)


def _checksum(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    parts: list[bytes | str] = [json.dumps(record, sort_keys=True)]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), tensor_bytes(tensor)]
    return digest(*parts)
