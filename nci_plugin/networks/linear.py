"""The gate of the head: a linear layer whose product W h + b with the features is what the network answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nci_plugin.checks import PluginError, shown
from nci_plugin.networks.architecture import architecture_of
from nci_plugin.networks.calling import Call, device_of, without_autocast
from nci_plugin.networks.head import LinearHead

PASS_HEAD = "name the last linear layer with --head (head= in Python), e.g. --head fc"

EXACT_SHARE = 1e-4
"""Largest difference of logits to W h + b, as a share of |W| |h| + |b|: float32 and float64, on any device."""

COARSE_STEPS = 2
"""The same where arithmetic was in bfloat16 or float16, in steps between its numbers."""


def linear_layer(network: nn.Module, name: str) -> nn.Linear:
    """The layer of that name; raises PluginError unless it is a linear one whose weights are there."""
    layer = dict(network.named_modules()).get(name) if isinstance(name, str) else None
    if not isinstance(layer, nn.Linear):
        kind = "no such layer" if layer is None else type(layer).__name__
        raise PluginError(f"head {shown(name)}: must be a torch.nn.Linear of the network, got {kind}; {PASS_HEAD}")
    check_weights(network)
    return layer


def check_weights(network: nn.Module) -> None:
    """Raise PluginError on what is no network, and on a weight that holds no numbers yet: lazy, or on ``meta``."""
    if not isinstance(network, nn.Module):
        raise PluginError(f"network: must be a torch.nn.Module, got {shown(network)}; pass the classifier itself")
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise PluginError(
                f"network {type(network).__name__}: '{name}' holds no numbers yet (a lazy layer, or the meta device);"
                " pass it an image first, in its factory say"
            )


def agrees(head: LinearHead, features: Tensor, logits: Tensor, types: Sequence[torch.dtype] = ()) -> bool:
    """Whether logits (n, K) are W h + b of features (n, P), within the precision that they were computed in.

    That is the coarsest of ``types``; where there are none, of those that hold all values exactly: what was cast to
    float32 counts as what it was. NaN and infinity are no difference: they are looked for elsewhere.
    """
    with torch.no_grad(), without_autocast():
        # On their device, in the arithmetic that float32 has there (TF32, say).
        rows, found = features.to(logits.device).float(), logits.float()
        weight, bias = head.weight.to(rows), head.bias.to(rows)
        coarsest = max(torch.finfo(each).eps for each in types or [_precision(features), _precision(logits)])
        bound = max(EXACT_SHARE, COARSE_STEPS * coarsest) * F.linear(rows.abs(), weight.abs(), bias.abs())
        difference = (F.linear(rows, weight, bias) - found).abs()
        return bool(((difference <= bound) | ~difference.isfinite()).all())


def _precision(values: Tensor) -> torch.dtype:
    for dtype in (torch.bfloat16, torch.float16):
        if values.dtype == dtype or torch.equal(values.to(dtype).to(values.dtype), values):
            return dtype
    return values.dtype if values.is_floating_point() else torch.float32


# -------------------------------------------------------------------- no image passes


def head_on_features(
    network: nn.Module, name: str | None, num_classes: int, features: Tensor, logits: Tensor | None
) -> LinearHead:
    """The head of a network that sees no image, for features (n, P) and, where they are known, their logits (n, K).

    Without a ``name`` it is the only linear layer from P to ``num_classes``, or of several the only one that gives the
    logits. On the features it must give W h + b, as the logits and every module around it that takes them. What else
    the network does to its output cannot be seen from here. Raises PluginError where it is none or not known.
    """
    check_weights(network)
    candidates = [name] if name else _candidates(network, num_classes, features.shape[1])
    rows = features[:ROWS]
    heads = {each: _effective(network, each, rows) for each in candidates}
    ((chosen, head), *others) = heads.items()
    if not others and (head.num_classes, head.num_features) != (num_classes, features.shape[1]):
        return head  # the caller says what does not fit, and of which split
    if logits is not None:
        given = {each: head for each, head in heads.items() if agrees(head, rows, logits[:ROWS])}
        if not given:
            raise PluginError(
                f"head {_names(list(heads))}: its product with the features is not the logits that were given with"
                f" them; {PASS_HEAD}, or pass the features and logits of one network"
            )
        ((chosen, head), *others) = given.items()
    if others:
        raise PluginError(
            f"network {type(network).__name__}: {len(heads)} of its linear layers could be its head,"
            f" {_names(list(heads))}, and features alone do not say which; {PASS_HEAD}"
        )
    if logits is None:
        _check_alone(network, chosen, head, rows, named=bool(name))
    return head


ROWS = 64
"""Features on which the head is checked."""


def _candidates(network: nn.Module, num_classes: int, width: int) -> list[str]:
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    fitting = [
        name for name, layer in layers.items() if (layer.out_features, layer.in_features) == (num_classes, width)
    ]
    if not fitting and not layers:
        raise PluginError(f"network {type(network).__name__}: has no linear layer; pass its head as a LinearHead")
    if not fitting and len(layers) > 1:
        raise PluginError(
            f"network {type(network).__name__}: none of its linear layers takes {width} features and gives"
            f" {num_classes} classes, as the benchmark's do (its last: {_names(list(layers)[-3:])}); pass the network"
            " that gave the features"
        )
    return fitting or list(layers)  # one alone: what does not fit is said of it


def _effective(network: nn.Module, name: str, rows: Tensor) -> LinearHead:
    """A layer's weights as its forward pass has them: those of weight norm and pruning are computed by it."""
    layer = linear_layer(network, name)
    if layer.in_features == rows.shape[1]:
        _called(layer, rows)
    return LinearHead.from_linear(layer, *architecture_of(network, name) if layer is not network else ())


def _check_alone(network: nn.Module, name: str, head: LinearHead, rows: Tensor, named: bool) -> None:
    """Raise PluginError if the layer, or, unless it was ``named``, a module around it, makes another use of W and b."""
    modules = dict(network.named_modules(remove_duplicate=False))
    parts = name.split(".") if name else []
    holders = [".".join(parts[:depth]) for depth in range(len(parts))]
    for each in [name, *([] if named else reversed(holders))]:
        answer = _called(modules[each], rows)
        if answer is not None and answer.shape != (len(rows), head.num_classes):
            answer = None
        if answer is None and each != name:
            continue  # it takes images, say
        if answer is None or not agrees(head, rows, answer):
            what = f"'{each}' ({type(modules[each]).__name__})" if each else f"the network ({type(network).__name__})"
            raise PluginError(
                f"head{f' {shown(name)}' if name else ''}: {what} does not give W h + b of the features, so what the"
                " network answers is not known; pass its logits with the features, or images"
                f"{'' if each == name else f'; or {PASS_HEAD}'}"
            )


def _called(module: nn.Module, rows: Tensor) -> Tensor | None:
    """What a module answers to rows of features; None if it does not take them."""
    try:
        with torch.no_grad(), without_autocast():
            return Call(module)(rows.to(device_of(module)))
    except PluginError:
        return None


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" if name else "given" for name in names) or "none"
