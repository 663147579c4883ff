"""Network and detector as one nn.Module: images in; logits, score and verdict out, in one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.deploy.calibration import POOLED
from nci_plugin.deploy.file import Fitted
from nci_plugin.deploy.graph import graph_of
from nci_plugin.deploy.network import check_network, layer_named, probe_images
from nci_plugin.features.forward import prepared
from nci_plugin.networks.calling import COMPILED_FROM, in_autocast, logits_in, unwrapped, without_autocast
from nci_plugin.networks.cut import Cut
from nci_plugin.rows import check_float_images


class ScoringModule(nn.Module):
    """``module(images)``: logits (n, K) as the network gives them, score (n,), larger = ID, and is_ood (n,).

    Images (n, 3, H, W) are preprocessed. The network's weights are those of the model that it was made from, not
    copies, and it stays in eval mode whatever mode that is in. All is computed on the device of the images; move it as
    any module, which moves the model too. Its types stay: the score is computed in float64, and what would change the
    network's, ``half()`` say, raises PluginError. It is stateless: threads may share it. Call it under
    ``torch.inference_mode()``. A score that is NaN is called OOD.
    """

    thresholds: Tensor

    def __init__(
        self,
        network: nn.Module,
        equation: nn.Module,
        num_features: int,
        thresholds: Tensor,
        dtype: torch.dtype,
        fitted: Fitted,
        tpr: float,
    ) -> None:
        super().__init__()
        self.network, self.equation, self.num_features, self._dtype = network, equation, num_features, dtype
        self.register_buffer("thresholds", thresholds)
        self.image_shape, self.class_names = fitted.probe.shape, fitted.class_names
        self.detector, self.tpr = fitted.detector.name, tpr

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(images, Tensor):
            raise PluginError(f"images: must be a tensor (n, ...), got {type(images).__name__}; pass a batch of images")
        if images.shape[1:] != self.image_shape:  # the network may take it: the detector has not seen such images
            raise PluginError(
                f"images: must be {self.image_shape} each, as in fit, got {tuple(images.shape[1:])}; preprocess them as"
                " the network's test images, and pass one image as a batch of one"
            )
        check_float_images("batch of images", images)
        joined = logits_in(self.network(images.to(self._dtype)))
        features, logits = joined.tensor_split((self.num_features,), dim=1)
        # An autocast is the caller's, for the network: the score is not computed in bfloat16.
        with without_autocast() if in_autocast(images.device) else nullcontext():
            score = self.equation(features.float(), logits.float()).float()
        threshold = self.thresholds if self.thresholds.ndim == 0 else self.thresholds[logits.argmax(dim=1)]
        return logits, score, ~(score >= threshold)

    def train(self, mode: bool = True) -> ScoringModule:
        """It serves and is not trained: batch norm and dropout stay in eval mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> ScoringModule:
        """What ``to``, ``cuda``, ``float`` and the like do: to another device, in the types that all is in."""
        for dtype in {tensor.dtype for tensor in chain(self.network.parameters(), self.network.buffers())}:
            changed = fn(torch.zeros(1, dtype=dtype)).dtype
            if changed != dtype:
                raise PluginError(
                    f"module of detector '{self.detector}': its network is in {dtype}, and would be in {changed}; cast"
                    " the model and load the detector with it, or call the module under torch.autocast"
                )

        def in_its_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(in_its_type, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.detector}, images {self.image_shape}, TPR {100 * self.tpr:g} %"


class _Tap(nn.Module):
    """The head, whose output is its input and its output side by side, (n, P + K): no hook and no state is needed."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([input, self.linear(input)], dim=1)

    def __getattr__(self, name: str) -> Any:
        """Its in_features, say, as the network may read them."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("linear"), name)


def scoring_module(fitted: Fitted, model: nn.Module, tpr: float) -> ScoringModule:
    """The module of a fitted detector and its network.

    Raises PluginError on another network, and where the network does more with its head's output than return it.
    """
    where = f"module of detector '{fitted.detector.name}'"
    check_network(model)
    with prepared(model) as device:  # nothing of another thread's pass, a hook say, is copied
        head = layer_named(model, fitted.head, where)
        fitted.network.check(model, head, where)
        fitted.probe.check(model, head, where, fitted.network.dtype)
        num_features, num_classes = fitted.probe.features.shape[1], fitted.probe.logits.shape[1]
        by_group = fitted.calibration.thresholds(tpr)
        values = torch.tensor([float(by_group.get(label, by_group[POOLED])) for label in range(num_classes)])
        thresholds = values if fitted.calibration.by_class else values[0]
        tapped = _tapped(model, fitted.head, where)
        images = probe_images(fitted.probe.shape).to(device)
        dtype = _taken(tapped, images, where)
        equation = graph_of(fitted.detector)
        module = ScoringModule(tapped, equation, num_features, thresholds, dtype, fitted, tpr).eval()
        module.equation.to(device)
        module.thresholds = module.thresholds.to(device)
        features, logits = Cut(model, head)(images)
        joined = logits_in(tapped(images.to(dtype))).float()
    wanted = torch.cat([features, logits], dim=1)
    same = joined.shape == wanted.shape and torch.allclose(joined, wanted, rtol=1e-3, atol=1e-4, equal_nan=True)
    if not same:
        raise PluginError(
            f"{where}: {type(model).__name__} does more with its head's output than return it, or calls code that was"
            " compiled before; pass it uncompiled, or score with OODDetector.predict"
        )
    return module


def _tapped(model: nn.Module, head: str, where: str) -> nn.Module:
    """A copy of a network that shares its weights, in eval mode, uncompiled, with a `_Tap` in its head's place.

    It shares what holds them too, so that a move of either, which puts other tensors there, is one of both.
    """
    network = unwrapped(model)
    shared: dict[int, Any] = {}
    for module in network.modules():
        holders = module._parameters, module._buffers
        values = chain(vars(module).values(), *(each.values() for each in holders))
        shared.update({id(each): each for each in [*holders, *(each for each in values if isinstance(each, Tensor))]})
    try:
        copied = copy.deepcopy(network, shared)
    except Exception as error:  # a lock, an open file, a generator: what the user's network holds
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        name = type(network).__name__
        raise PluginError(f"{where}: {name} cannot be copied ({reason}); take that out of it") from None
    for module in copied.modules():
        for name, child in list(module._modules.items()):
            while isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
                child = inner
            setattr(module, name, child)
        if hasattr(vars(module).get("forward"), COMPILED_FROM):
            del vars(module)["forward"]
        vars(module).pop("_compiled_call_impl", None)
    name = layer_named(copied, head, where)
    linear = copied.get_submodule(name)
    tap = _Tap(linear)
    for module in list(copied.modules()):
        for place, child in module._modules.items():
            if child is linear:  # under each of its names: the network may call it by any
                module._modules[place] = tap
    return (copied if name else tap).eval()


def _taken(network: nn.Module, images: Tensor, where: str) -> torch.dtype:
    """The type of images that a network takes: float32, or that of its weights."""
    weights = next((each.dtype for each in network.parameters() if each.is_floating_point()), images.dtype)
    for dtype in dict.fromkeys((images.dtype, weights)):
        try:
            network(images.to(dtype))
            return dtype
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0][:120]
    raise PluginError(f"{where}: {type(network).__name__} fails on images {tuple(images.shape)} ({reason})")
