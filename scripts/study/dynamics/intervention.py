"""Intervention: scale the penultimate features at an epoch, and see whether their norm returns (arXiv 2604.00230)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError, check_known, check_number
from nci_plugin.networks.cut import Cut
from nci_plugin.training.train import Entry


@dataclass
class Intervention:
    """A callback of `train` that multiplies weights and bias of a layer by ``factor`` after epoch ``epoch``.

    ``layer`` is a module's name; None = the last layer with weights that runs before the head. Behind it the features
    of an MLP with ReLU grow by exactly ``factor``; those of a residual network by less, as its shortcut stays, so
    ``fn_before`` and ``fn_after``, mean ||h||_2 over ``images`` (n, 3, H, W) in eval mode, say what was done. The
    optimizer keeps its state. Raises PluginError on a layer without weights.
    """

    epoch: int
    factor: float
    images: Tensor
    layer: str | None = None
    fn_before: float | None = field(default=None, init=False)
    fn_after: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_number("intervention: epoch", self.epoch, above=0, whole=True)
        check_number("intervention: factor", self.factor, above=0)

    def __call__(self, network: nn.Module, entry: Entry) -> None:
        if entry["epoch"] != self.epoch:
            return
        with torch.no_grad():
            images = self.images.to(next(network.parameters()).device)
            cut = Cut.of(network, images[:1])
            self.layer = self.layer or last_layer_before(cut, images[:1])
            self.fn_before = _feature_norm(cut, images)
            for parameter in _layer(network, self.layer).parameters(recurse=False):
                parameter.mul_(self.factor)
            self.fn_after = _feature_norm(cut, images)


def recovery(fn_after: float, fn_later: float, fn_reference: float) -> float:
    """Share of the shift that was undone: 1, fn is back at the reference; 0, it stays where the intervention put it.

    The reference is fn of the same epoch without the intervention, since fn drifts in any case. Raises PluginError
    where the intervention did not move fn.
    """
    if fn_after == fn_reference:
        raise PluginError("intervention: fn was not moved, so there is nothing to return from; choose another factor")
    return (fn_after - fn_later) / (fn_after - fn_reference)


def last_layer_before(cut: Cut, images: Tensor) -> str:
    """Name of the last module with weights of its own that runs before the head, on a batch of images."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in cut.network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        cut(images)
    finally:
        for handle in handles:
            handle.remove()
    before = [name for name in ran if name != cut.head_name]
    if not before:
        raise PluginError("intervention: the network has no layer with weights before its head; it needs one")
    return before[-1]


def _layer(network: nn.Module, name: str) -> nn.Module:
    modules = dict(network.named_modules())
    check_known("layer", name, modules)
    if not list(modules[name].parameters(recurse=False)):
        raise PluginError(f"intervention: layer '{name}' has no weights of its own; name one that has")
    return modules[name]


def _feature_norm(cut: Cut, images: Tensor) -> float:
    norms = [torch.linalg.vector_norm(cut(batch)[0], dim=1) for batch in images.split(500)]
    return float(torch.cat(norms).mean())
