"""The cut of any classifier between its penultimate features and its last linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.head import LinearHead

PASS_HEAD = "name the last linear layer with --head, e.g. --head fc"


class Cut:
    """A network whose forward pass gives features and logits, whatever its class.

    The head is the linear layer whose output is the network's output; its input is the penultimate feature.
    """

    def __init__(self, network: nn.Module, head_name: str) -> None:
        self.network, self.head_name = network, head_name
        layer = dict(network.named_modules()).get(head_name)
        if not isinstance(layer, nn.Linear):
            kind = "no such layer" if layer is None else type(layer).__name__
            raise PluginError(f"head '{head_name}': must be a torch.nn.Linear of the network, got {kind}; {PASS_HEAD}")
        self._layer = layer

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, head_name: str | None = None) -> Cut:
        """Find the head on a batch of images (n, 3, H, W), or check the one that was named.

        Raises PluginError if no linear layer's output is the network's output.
        """
        cut = cls(network, head_name or _last_linear(network, images))
        features, logits = cut(images)
        head = cut.head
        expected = F.linear(features, head.weight.to(features), head.bias.to(features))
        if expected.shape != logits.shape or not torch.allclose(expected, logits, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise PluginError(
                f"head '{cut.head_name}': its output is not the network's output, so its input is not the penultimate"
                f" feature; {PASS_HEAD}"
            )
        return cut

    @property
    def head(self) -> LinearHead:
        network = self.network
        while isinstance(inner := getattr(network, "module", getattr(network, "_orig_mod", None)), nn.Module):
            network = inner  # of DataParallel, or of a compiled network
        return LinearHead.from_linear(self._layer, network=type(network).__name__)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, P) and logits (n, K) of a batch of images, in float32 on the network's device."""
        with _inputs_of(self._layer) as inputs:
            logits = _forward(self.network, images)
        if len(inputs) != 1 or inputs[0].ndim != 2 or logits.ndim != 2:
            shape = tuple(inputs[0].shape) if inputs else "nothing"
            raise PluginError(
                f"head '{self.head_name}': expected one input (n, P) a batch and logits (n, K),"
                f" got {shape} and {tuple(logits.shape)}; {PASS_HEAD}"
            )
        return inputs[0].float(), logits.float()


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    """The logits in what a network returns: a tensor, the first of a tuple, or the field ``logits``."""
    try:
        output = network(images)
    except Exception as error:  # the network is the user's code and may raise anything
        raise PluginError(
            f"network {type(network).__name__}: failed on a batch of shape {tuple(images.shape)} with"
            f" {type(error).__name__}: {str(error)[:200]}; check the preprocessing's img_size, and if memory ran out"
            " use a smaller --batch-size"
        ) from error
    logits = getattr(output, "logits", output[0] if isinstance(output, (tuple, list)) else output)
    if not isinstance(logits, Tensor):
        raise PluginError(
            f"network: must return logits (n, K), got {type(output).__name__}; wrap it in a factory (--net)"
        )
    return logits


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, inputs, named: seen.append((inputs[0] if inputs else named["input"]).detach()), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


def _last_linear(network: nn.Module, images: Tensor) -> str:
    """Name of the last linear layer that ran and whose output is the network's output."""
    names = {layer: name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda layer, _, output: outputs.append((names[layer], output))) for layer in names
    ]
    try:
        logits = _forward(network, images)
    finally:
        for handle in handles:
            handle.remove()
    for name, output in reversed(outputs):
        if output.shape == logits.shape and torch.allclose(output, logits, rtol=0, atol=0, equal_nan=True):
            return name
    last = ", ".join(name for name, _ in outputs[-3:]) or "none"
    raise PluginError(
        f"network {type(network).__name__}: no linear layer's output is the network's output, so its penultimate"
        f" feature is not known (last linear layers that ran: {last}); {PASS_HEAD}"
    )
