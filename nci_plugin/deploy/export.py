"""Network and detector as one graph in a file, ONNX or torch.export, compared with the detector before it is kept."""

from __future__ import annotations

import copy
import importlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nci_plugin.checks import PluginError, check_choice, check_replaceable, check_writable
from nci_plugin.deploy import images as gate
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.graph import Angle, Gated, Guided, Neighbour
from nci_plugin.deploy.module import ScoringModule

FORMATS = {"onnx": ".onnx", "export": ".pt2"}
OUTPUTS = ("logits", "score", "is_ood")
TOLERANCE = 1e-4
"""Largest difference of a score s to the detector's own, times max(1, |s|)."""

MOST_IMAGES = 64
"""So many images are compared, as one batch and one by one."""

BANK_BYTES = 2**28
"""The largest bank of training features that becomes a constant of a graph: 131,072 rows of 512."""

Run = Callable[[Tensor], "tuple[NDArray[Any], ...]"]


@dataclass(frozen=True)
class Exported:
    """A file, and how far its scores lie from the detector's on so many images, as a share of max(1, |score|)."""

    path: Path
    images: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.path}: scores of {self.images} images, in one batch and one by one, differ from the detector's by"
            f" at most {self.difference:.1e} of max(1, |score|)"
        )


def export(detector: OODDetector, path: str | Path, to: str, source: Any, tpr: float | None = None) -> Exported:
    """Write the detector and its network as one graph: images (n, 3, H, W), any n -> logits, score and is_ood.

    Args:
        to: ``onnx`` (needs the extra ``onnx``), or ``export``: a program of torch.export.
        source: real images, as in `OODDetector.score`, at least two: the file is compared with the detector on them.

    Raises PluginError, and leaves no file, where the detector or the network cannot be exported and where a score
    differs by more than 1e-4 max(1, |score|), a predicted class differs, or a verdict that is not within that.
    """
    check_choice("to", to, FORMATS)
    path = Path(path)
    if path.suffix != FORMATS[to]:
        raise PluginError(f"output '{path}': a file of '{to}' is named *{FORMATS[to]}; name it so")
    check_replaceable(path)
    check_writable(path.parent)
    batch = next(gate.batches(source, detector.fitted.preprocessing, MOST_IMAGES))
    if len(batch) < 2:
        raise PluginError("export: needs at least two images to compare on; pass more")
    module = detector.module(tpr=tpr)
    _check_bank(module)
    if to == "onnx" and next(module.parameters()).device.type != "cpu":
        module = copy.deepcopy(module).cpu()  # the model's own weights stay where they are
    if isinstance(module.equation, (Angle, Gated)):
        module.equation.portable = True
    device = module.thresholds.device
    written: Callable[[ScoringModule, Tensor, Path], Run] = _onnx if to == "onnx" else _program
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as place:
            file = Path(place, path.name)
            run = written(module, batch.to(device), file)
            found = Exported(path, len(batch), _difference(detector, batch, run, device, tpr))
            if len(os.listdir(place)) > 1:
                raise PluginError(f"export: {type(module.network).__name__} is too large for one file; use --to export")
            os.replace(file, path)
    except OSError as error:
        reason = error.strerror or error
        raise PluginError(f"cannot write '{path}': {reason}; free space or choose another directory") from None
    return found


def _check_bank(module: ScoringModule) -> None:
    if isinstance(module.equation, (Neighbour, Guided)):
        bank = module.equation.bank
        size = bank.numel() * bank.element_size()
        if size > BANK_BYTES:
            raise PluginError(
                f"detector '{module.detector}': its bank of {len(bank)} training features is {size / 2**20:.0f} MiB,"
                f" and a graph holds at most {BANK_BYTES / 2**20:.0f} MiB; fit it with bank_rows"
                f" (--bank-rows) of at most {BANK_BYTES // (size // len(bank))}"
            )


def _difference(detector: OODDetector, images: Tensor, run: Run, device: torch.device, tpr: float | None) -> float:
    expected = detector.predict(images, tpr)
    scores, labels = expected.scores.double().numpy(), expected.labels.numpy()
    one_by_one = [np.concatenate(parts) for parts in zip(*(run(image[None].to(device)) for image in images))]
    thresholds = detector.fitted.calibration.thresholds(detector.fitted.level(tpr))
    values = np.array([float(each) for each in thresholds.values()])
    largest = 0.0
    for logits, found, is_ood in (run(images.to(device)), one_by_one):
        limit = np.maximum(1.0, np.abs(scores))
        largest = float(np.maximum(largest, (np.abs(found - scores) / limit).max()))  # NaN stays
        near = (np.abs(scores[:, None] - values) <= TOLERANCE * limit[:, None]).any(axis=1)
        if not largest <= TOLERANCE:
            raise PluginError(
                f"export: the graph's scores differ from the detector's by {largest:.1e} of max(1, |score|), more than"
                f" {TOLERANCE:.0e}; nothing was written; score with OODDetector.module in PyTorch"
            )
        two = np.sort(logits, axis=1)[:, -2:]
        tied = two[:, 1] - two[:, 0] <= TOLERANCE * np.abs(two[:, 1]).clip(1) if two.shape[1] == 2 else near
        if (~tied & (logits.argmax(axis=1) != labels)).any() or (~near & (is_ood != expected.is_ood.numpy())).any():
            raise PluginError("export: the graph's classes or verdicts are not the detector's; nothing was written")
    return largest


def _program(module: ScoringModule, images: Tensor, path: Path) -> Run:
    program = _exported(module, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about weights that share their memory
        buffer = io.BytesIO()  # torch's own writer ends the process on a full disk
        torch.export.save(program, buffer)
        path.write_bytes(buffer.getbuffer())
        loaded = torch.export.load(path).module()

    def run(batch: Tensor) -> tuple[NDArray[Any], ...]:
        with torch.no_grad():
            return tuple(
                each.float().cpu().numpy() if each.is_floating_point() else each.cpu().numpy() for each in loaded(batch)
            )

    return run


def _exported(module: ScoringModule, images: Tensor) -> Any:
    if not hasattr(getattr(torch, "export", None), "Dim"):  # torch 2.1 has an earlier draft
        raise PluginError(f"export: torch {torch.__version__} has no torch.export.Dim; install torch 2.5 or newer")
    batch = torch.export.Dim("batch", min=1, max=2**20)
    try:
        # Of a network that cannot be traced torch prints all that it traced, beside the error that one line says.
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            return torch.export.export(module, (images,), dynamic_shapes={"images": {0: batch}}, strict=False)
    except Exception as error:  # torch.export raises many types on what it cannot trace
        raise PluginError(
            f"export: {type(module.network).__name__} with '{module.detector}' cannot be exported by torch.export"
            f" {torch.__version__} ({_first_line(error)}); score with OODDetector.module in PyTorch"
        ) from error


def _onnx(module: ScoringModule, images: Tensor, path: Path) -> Run:
    try:
        runtime = importlib.import_module("onnxruntime")
        importlib.import_module("onnx")
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise PluginError(f"export: to onnx needs the extra 'onnx' ({error}); pip install nci_plugin[onnx]") from None
    program = _exported(module, images)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecated calls
            converted = torch.onnx.export(
                program, input_names=["images"], output_names=list(OUTPUTS), dynamo=True, verbose=False
            )
        assert converted is not None  # with dynamo=True
        converted.save(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # of the converter, and of the runtime on an operator that it lacks
        raise PluginError(
            f"export: {type(module.network).__name__} with '{module.detector}' cannot become ONNX"
            f" ({_first_line(error)}); use --to export"
        ) from error
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> tuple[NDArray[Any], ...]:
        return tuple(session.run(list(OUTPUTS), {name: batch.numpy()}))

    return run


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
