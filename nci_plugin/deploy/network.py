"""Which network a detector belongs to: a fingerprint of its weights, and what it answers to images that stay."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from nci_plugin.checks import PluginError, shown
from nci_plugin.features.fingerprint import tensor_bytes
from nci_plugin.features.forward import prepared
from nci_plugin.files import digest
from nci_plugin.networks.architecture import architecture_of
from nci_plugin.networks.calling import device_of
from nci_plugin.networks.cut import COARSE_STEPS, SAME_FEATURES, Cut, difference
from nci_plugin.networks.linear import check_weights

WRAPPED = ("_orig_mod", "module")
"""Parts of names that torch.compile and DataParallel put in, and AveragedModel."""

BESIDE = ("num_batches_tracked", "n_averaged")
"""Counts that no output depends on."""

PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Of weights, from the finest; a network that was cast to a coarser one has the fingerprint of that precision."""

PROBE_IMAGES = 4
LARGEST_SIDE, MOST_SIDES, MOST_NUMBERS = 2**13, 4, 2**26
"""Pixels of a side, numbers in the shape and numbers in all of an image: four of the largest take 1 GiB."""

TF32_STEP = 2.0**-10
"""Between the numbers that a GPU may round the factors of float32 products to."""


@dataclass(frozen=True)
class Fingerprint:
    """``digests`` hash the weights as they are in every precision; ``dtype`` is the coarsest that they came in."""

    name: str
    dtype: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, network: nn.Module, head: str) -> Fingerprint:
        """That of a network, however it is wrapped, prefixed or compiled and on whatever device."""
        weights = _weights(network)
        digests = {_text(dtype): _digest(weights, dtype) for dtype in PRECISIONS}
        return cls(architecture_of(network, head)[0], _text(_coarsest(weights.values())), digests)

    def __post_init__(self) -> None:
        texts = {_text(dtype) for dtype in PRECISIONS}
        said = [self.name, self.dtype, *dict(self.digests).values()]
        if not all(isinstance(each, str) for each in said) or set(self.digests) != texts or self.dtype not in texts:
            raise PluginError(f"network: must have a name, a dtype and digests of {', '.join(sorted(texts))}, as texts")

    @property
    def short(self) -> str:
        return self.digests[self.dtype][:12]

    def check(self, network: nn.Module, head: str, where: str) -> str:
        """A line about the precision where that differs, else ""; raises PluginError if it is another network."""
        weights = _weights(network)
        theirs = _coarsest(weights.values())
        dtype = max(theirs, _dtype(self.dtype), key=PRECISIONS.index)
        found = _digest(weights, dtype)
        if found != self.digests[_text(dtype)]:
            raise PluginError(
                f"{where}: was fitted on {self.name} (weights {self.short}), and this is"
                f" {architecture_of(network, head)[0]} with other weights ({found[:12]}); pass the network that it was"
                " fitted on, or fit a detector on this one"
            )
        if _text(theirs) == self.dtype:
            return ""
        return (
            f"{where}: was fitted on a network in {self.dtype}, this one is in {_text(theirs)}: scores and the share of"
            " ID samples below the threshold may move by rounding"
        )


class Marks:
    """Where a network's weights lie and how often they were written to: a look at each, and none at its numbers.

    What is written through ``tensor.data``, or to tensors of inference mode, counts nothing and is not seen.
    """

    def __init__(self, network: nn.Module) -> None:
        _count_steps()
        self._steps = _steps
        self._marks = list(map(_mark, [*network.parameters(), *network.buffers()]))

    def hold(self, network: nn.Module) -> bool:
        """Whether no weight was written to, moved or replaced since, and no optimizer, of whatever, made a step."""
        now = Marks(network)
        return (now._steps, len(now._marks)) == (self._steps, len(self._marks)) and all(
            tensor is then and mark == mark_then for (tensor, *mark), (then, *mark_then) in zip(now._marks, self._marks)
        )


_steps = 0
"""Of all optimizers in this process: the fused ones write to weights without these counting it."""


@cache
def _count_steps() -> None:
    """From the first call on."""
    register_optimizer_step_post_hook(_count)


def _count(*_: Any) -> None:
    global _steps
    _steps += 1


def _mark(tensor: Tensor) -> tuple[Tensor, int, int]:
    return tensor, tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by the name that they have in every wrapping."""
    found = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    names = _inner_names(network, (name for name in found if name.rpartition(".")[2] not in BESIDE))
    return {
        inner: found[name].dequantize() if found[name].is_quantized else found[name] for inner, name in names.items()
    }


def _inner_names(network: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names by those without the parts that wrappers put in and without what all begin with.

    Where two would be one, the later, in whatever wrapping, has a mark behind.
    """
    depth = len(_prefix(network))
    found: dict[str, str] = {}
    for name in names:
        inner = ".".join(_inner(name.split("."))[depth:])
        while inner in found:
            inner += "'"
        found[inner] = name
    return found


def _inner(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part not in WRAPPED)


def _prefix(network: nn.Module) -> list[str]:
    """What the names of all weights begin with: the place of the network in what it is wrapped in."""
    modules = [_inner(name.split("."))[:-1] for name in network.state_dict()]
    return list(os.path.commonprefix(modules)) if modules else []


def _linear_layers(network: nn.Module) -> dict[str, str]:
    """The names, all of them, of the linear layers, by those that they have in every wrapping."""
    modules = network.named_modules(remove_duplicate=False)
    return _inner_names(network, (name for name, module in modules if isinstance(module, nn.Linear)))


def inner_name(network: nn.Module, layer: str) -> str:
    """The name of a linear layer as every wrapping of the network has it."""
    return next(inner for inner, name in _linear_layers(network).items() if name == layer)


def layer_named(network: nn.Module, inner: str, where: str) -> str:
    """The linear layer whose `inner_name` is ``inner``, under the name that it has here; raises PluginError if none."""
    if (name := _linear_layers(network).get(inner)) is not None:
        return name
    raise PluginError(f"{where}: the network has no linear layer '{inner}', its head in fit; pass the same network")


def layer_of(network: nn.Module, inner: str, where: str) -> str:
    """The head's name in this wrapping of the network; the first linear layer's where it has none of that name."""
    linear = _linear_layers(network)
    if not linear:
        raise PluginError(f"{where}: {type(network).__name__} has no linear layer; pass the network of the fit")
    return linear.get(inner, next(iter(linear.values())))


def check_network(network: nn.Module) -> None:
    """Raise PluginError on what is no network, and on weights that are no numbers."""
    if not isinstance(network, nn.Module):
        raise PluginError(f"model: must be a torch.nn.Module, got {type(network).__name__}; pass the classifier")
    check_weights(network)


def _digest(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    parts: list[bytes | str] = []
    for name in sorted(weights):
        tensor = weights[name].detach().cpu()
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        parts += [name, str(tuple(tensor.shape)), tensor_bytes(tensor)]
    return digest(*parts)


def _coarsest(tensors: Iterable[Tensor]) -> torch.dtype:
    floats = {tensor.dtype for tensor in tensors if tensor.dtype in PRECISIONS}
    return max(floats, key=PRECISIONS.index, default=torch.float32)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(text: str) -> torch.dtype:
    return next(dtype for dtype in PRECISIONS if _text(dtype) == text)


# -------------------------------------------------------------------- the probe


def check_image_shape(shape: Sequence[int]) -> None:
    """Raise PluginError on a shape that no image has, or one too large to be made up."""
    if not all(type(each) is int and 0 < each <= LARGEST_SIDE for each in shape) or not 0 < len(shape) <= MOST_SIDES:
        raise PluginError(f"image_shape is {shown(tuple(shape))}, which no network takes")
    if math.prod(shape) > MOST_NUMBERS:
        raise PluginError(
            f"image_shape is {shown(tuple(shape))}, and an image has at most {MOST_NUMBERS} numbers; make them smaller"
        )


def probe_images(shape: Sequence[int]) -> Tensor:
    """Images (4, *shape) that are the same wherever they are made: multiples of the golden ratio, in -2..2."""
    numel, made = torch.Size(shape).numel(), torch.empty(PROBE_IMAGES, *shape, dtype=torch.float32)
    for index, image in enumerate(made):  # one by one, as the numbers are in float64
        numbers = torch.arange(index * numel, (index + 1) * numel, dtype=torch.float64)
        image.copy_(((numbers * 0.6180339887498949) % 1 * 4 - 2).reshape(shape))
    return made


@dataclass(frozen=True, eq=False)
class Probe:
    """What a network gave for `probe_images`: features (n, P) and logits (n, K) in float32."""

    shape: tuple[int, ...]
    features: Tensor
    logits: Tensor

    @classmethod
    def of(cls, network: nn.Module, head: str, shape: Sequence[int]) -> Probe:
        with prepared(network) as device:
            features, logits = Cut(network, head)(probe_images(shape).to(device))
        return cls(tuple(shape), features.cpu(), logits.cpu())

    def check(self, network: nn.Module, head: str, where: str, fitted_in: str) -> None:
        """Raise PluginError unless a network of the same weights also computes the same with them.

        ``fitted_in`` is the precision of the network then, as `Fingerprint.dtype`.

        A normalisation in front of it, another activation or another head would not show in the weights.
        """
        now = Probe.of(network, head, self.shape)
        coarse = max(_coarsest(_weights(network).values()), _dtype(fitted_in), key=PRECISIONS.index)
        step = torch.finfo(coarse).eps
        if device_of(network).type == "cuda":
            step = max(step, TF32_STEP)
        tolerance = max(SAME_FEATURES, COARSE_STEPS * step)
        for name in ("features", "logits"):
            if difference(getattr(now, name), getattr(self, name)) > tolerance:
                now_in = _text(_coarsest(_weights(network).values()))
                rounded = "" if now_in == fitted_in else f", or {now_in} rounds too much in it"
                raise PluginError(
                    f"{where}: this network has the weights that it was fitted on, but gives other {name} for the same"
                    f" images: it is wrapped in something that changes them, or its code was changed{rounded}; pass it"
                    f" as it was in fit, in {fitted_in}"
                )
