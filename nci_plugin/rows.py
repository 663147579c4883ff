"""The gates of labels, features and images: numbers of a user, one row a sample, as tensors that are trusted after.

Tensors, arrays and lists pass; a graph that they hang on is left behind.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, shown

LARGEST = 2**53
"""Whole numbers up to this one are exact in float64."""


def id_labels(what: str, labels: Any, rows: int, num_classes: int, first_index: int = 0, place: str = "row") -> Tensor:
    """The labels of ID samples as int64 (rows,), each in 0..num_classes-1.

    ``labels`` are whole numbers of any type, (rows,) or (rows, 1); True and False are labels of two classes. Raises
    PluginError on anything else (one-hot labels, NaN, fractions, texts, another number of labels); it begins with
    ``what`` and names the first such row (or other ``place``), counted from ``first_index``.
    """
    whole = whole_labels(what, labels, rows, num_classes, first_index, place)
    bad = (whole < 0) | (whole >= num_classes)
    if bad.any():
        index = int(bad.nonzero()[0, 0])
        raise PluginError(
            f"{what}: label {int(whole[index])} at {place} {first_index + index} is outside 0..{num_classes - 1};"
            " correct the list or the benchmark's num_classes"
        )
    return whole


def whole_labels(
    what: str, labels: Any, rows: int, num_classes: int | None = None, first_index: int = 0, place: str = "row"
) -> Tensor:
    """As `id_labels`, in any range: for labels whose number of classes is not known, or that may be -1 (OOD)."""
    numbers = as_numbers(f"{what}: labels", labels)
    remedy = "pass one class index, a whole number, for each"
    if numbers.ndim == 0 or len(numbers) != rows or numbers.numel() != rows:
        one_hot = numbers.ndim == 2 and len(numbers) == rows
        raise PluginError(
            f"{what}: labels must be one whole number for each of {rows} samples, got shape {tuple(numbers.shape)};"
            f" {'pass labels.argmax(1) if they are one-hot' if one_hot else remedy}"
        )
    numbers = numbers.reshape(rows)
    if numbers.dtype == torch.bool and num_classes != 2:
        raise PluginError(f"{what}: labels must be class indices, got True and False; {remedy}")
    if not numbers.is_floating_point():
        return numbers.long()
    exact = 2 / torch.finfo(numbers.dtype).eps
    if num_classes is not None and num_classes - 1 > exact:
        raise PluginError(
            f"{what}: labels in {str(numbers.dtype).removeprefix('torch.')} are not exact beyond {exact:.0f}, and there"
            f" are {num_classes} classes; pass them as int64, made before they were rounded"
        )
    numbers = numbers.double()
    bad = ~((numbers == numbers.round()) & (numbers.abs() <= LARGEST))
    if bad.any():
        index = int(bad.nonzero()[0, 0])
        raise PluginError(
            f"{what}: label {float(numbers[index]):g} at {place} {first_index + index} is no whole number; {remedy}"
        )
    return numbers.long()


def feature_rows(what: str, values: Any) -> Tensor:
    """Features, or logits, (n, P) as float32 on the CPU, n and P at least 1.

    Raises PluginError, which begins with ``what``, on another shape or type, on NaN and infinity and on numbers beyond
    the range of float32.
    """
    raw = as_numbers(what, values)
    if raw.dtype == torch.bool:
        raise PluginError(f"{what}: must be numbers, got True and False; pass floats")
    if raw.ndim != 2 or not raw.numel():
        raise PluginError(
            f"{what}: needs at least one row, in a matrix (n, P), got shape {tuple(raw.shape)}; pass one row a sample,"
            " x.flatten(1)"
        )
    rows = raw.float()
    check_finite(what if rows.dtype == raw.dtype else f"{what} in float32", rows)
    if raw.dtype == torch.float64 and raw.any() and rows.abs().max() < torch.finfo(rows.dtype).tiny:
        raise PluginError(f"{what}: all are too small for float32 (largest {float(raw.abs().max()):g}); scale them up")
    return rows


def check_float_images(what: str, images: Tensor) -> None:
    """Raise PluginError on images of whole numbers: they are pixels of 0..255, and not what the network was trained on.

    Many a network takes them and gives numbers of other images. One that scales them itself takes floats of 0..255 too.
    """
    if not images.is_floating_point():
        raise PluginError(
            f"{what}: holds {str(images.dtype).removeprefix('torch.')}, not floats: scale them to floats as in"
            " training (ToTensor, v2.ToDtype(scale=True)), or pass images.float() if the network itself scales them"
        )


def as_numbers(what: str, values: Any, device: torch.device | str = "cpu") -> Tensor:
    """Numbers, True and False too, as a dense tensor without a graph on ``device``; raises PluginError on others."""
    if isinstance(values, (list, tuple)) and values and all(isinstance(each, Tensor) for each in values):
        if len({each.shape for each in values}) > 1:
            raise PluginError(f"{what}: must have one shape, got {shown([tuple(each.shape) for each in values])}")
        values = torch.stack([each.detach() for each in values])
    if not isinstance(values, Tensor):
        values = _tensor(what, values)
    kinds = {"nested": values.is_nested, "without data (meta)": values.is_meta, "quantized": values.is_quantized}
    kinds["float8"] = values.is_floating_point() and values.element_size() == 1
    kinds["sparse"] = values.layout != torch.strided  # comes last, as nested ones have another layout too
    if kind := next((name for name, is_so in kinds.items() if is_so), ""):
        raise PluginError(f"{what}: must be a dense tensor, got one that is {kind}; convert it first")
    if values.is_complex():
        raise PluginError(f"{what}: must be real numbers, got {str(values.dtype).removeprefix('torch.')}")
    return values.detach().to(device)


def _tensor(what: str, values: Any) -> Tensor:
    """A tensor of an array, a list, or whatever else numpy makes an array of."""
    try:
        array = np.asarray(values)
    except Exception as error:  # ragged lists, or what an object's own conversion raises
        raise PluginError(f"{what}: cannot be read as an array of numbers ({error}); pass a tensor") from None
    if array.dtype.kind not in "buif" or np.ma.is_masked(values):
        came = "masked values" if array.dtype.kind in "buif" else f"{type(values).__name__} of {shown(_first(values))}"
        raise PluginError(f"{what}: must be numbers, got {came}; pass a tensor, an array or a list of numbers")
    # Types that torch does not have: unsigned ones (in old versions), long doubles, the other byte order.
    wider = {"u": np.uint8 if array.itemsize == 1 else np.float64 if array.itemsize == 8 else np.int64}
    native = wider.get(array.dtype.kind, array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.itemsize > 8:
        native = np.float64
    array = np.ascontiguousarray(array, dtype=native).reshape(array.shape)  # of a scalar it makes a row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an array that cannot be written to: nothing here writes
        return torch.from_numpy(array)


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, (list, tuple)) and values else values
