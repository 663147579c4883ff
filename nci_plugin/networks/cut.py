"""The cut of any classifier between its penultimate features and its last linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.networks.architecture import architecture_of
from nci_plugin.networks.calling import Call, watched
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import PASS_HEAD, agrees, linear_layer

PROBE_ROWS = 8
"""Images on which the head is found and the network is checked."""

SAME_FEATURES = 1e-3
"""Largest relative difference between features of one image that rounding explains: other kernels, same network."""

COARSE_STEPS = 8
"""The same in a coarser precision, in steps between its numbers."""

AS_IT_IS = "let the network return that of its last linear layer as it is, without a softmax, a factor or a slice"

Seen = Mapping[str, tuple[list[Tensor], list[Tensor]]]
"""Inputs and outputs of layers by name."""


class Cut:
    """A network whose forward pass gives features and logits, whatever its class.

    The head is the linear layer whose output is the network's output; its input is the penultimate feature.
    """

    def __init__(self, network: nn.Module, head_name: str) -> None:
        self.network, self.head_name = network, head_name
        self._layer, self._call = linear_layer(network, head_name), Call(network)

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, head_name: str | None = None) -> Cut:
        """Find the head on the first images of a batch (n, 3, H, W), or check the one that was named.

        Their features must be the same when they are passed again, half of them as before and half replaced.
        Raises PluginError if they are not, or if no linear layer's output is the network's output.
        """
        images = images[:PROBE_ROWS]
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
        if head_name:
            layers = {head_name: linear_layer(network, head_name)}
        call = Call(network, only_logits=not head_name)
        with _seen_by(layers) as seen:
            logits = call(images)
        cut = cls(network, head_name or _whose_output(logits, seen, call.network))
        features, output = cut._features(seen, logits)
        if output.shape != logits.shape or not agrees(cut.head, features, logits, [output.dtype, logits.dtype]):
            raise PluginError(
                f"head '{cut.head_name}': its output is not the network's output, or not W h + b, so its input is not"
                f" the penultimate feature; {AS_IT_IS}, or name another layer with --head (head= in Python)"
            )
        cut._check_features(images, features, output.dtype)
        return cut

    @property
    def head(self) -> LinearHead:
        return LinearHead.from_linear(self._layer, *architecture_of(self.network, self.head_name))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, P) and logits (n, K) of a batch of images, in float32 on the network's device."""
        with _seen_by({self.head_name: self._layer}) as seen:
            logits = self._call(images)
        return self._features(seen, logits)[0], logits.float()

    def _features(self, seen: Seen, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the head in float32, and its output, of one pass."""
        inputs, outputs = seen.get(self.head_name, ([], []))
        if len(inputs) != 1 or inputs[0].ndim != 2 or logits.ndim != 2 or len(inputs[0]) != len(logits):
            shape = f" on {tuple(inputs[0].shape)}" if inputs else ""
            raise PluginError(
                f"head '{self.head_name}': expected one input (n, P) a batch and logits (n, K), got logits"
                f" {tuple(logits.shape)}, and it ran {len(inputs)} times{shape}; {PASS_HEAD}"
            )
        return inputs[0].float(), outputs[0]

    def _check_features(self, images: Tensor, features: Tensor, dtype: torch.dtype) -> None:
        """Raise PluginError if the same images have other features in another pass, or in other company."""
        half = -(-len(images) // 2)
        again = self(torch.cat([images[:half], images[: len(images) - half]]))[0]
        moved = difference(again[:half], features[:half])
        if moved == 0:
            return
        # A GPU's kernels may add in another order; a CPU's do not, for one batch.
        rounding = SAME_FEATURES if torch.finfo(dtype).bits > 16 else COARSE_STEPS * torch.finfo(dtype).eps
        repeated = difference(self(images)[0], features)
        if repeated > (0 if images.device.type == "cpu" else rounding):
            raise PluginError(
                f"network {type(self._call.network).__name__}: not deterministic in eval mode: the same"
                f" {len(images)} images passed twice have features that differ by {100 * repeated:.2g} % of the"
                " largest; switch off dropout (training=self.training), noise, counters and what its forward changes"
            )
        if moved > rounding:
            raise PluginError(
                f"network {type(self._call.network).__name__}: the features of an image depend on the other images of"
                f" its batch (by {100 * moved:.2g} % of the largest); leave batch norm in eval mode in its forward"
            )


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; 0 where both are NaN or infinite in the same places."""
    if one.shape != other.shape:
        return float("inf")
    same = (one == other) | (one.isnan() & other.isnan())
    if same.all():
        return 0.0
    largest = torch.where(same, 0.0, one - other).abs().max()
    return float(torch.nan_to_num(largest / other.nan_to_num(0.0, 0.0, 0.0).abs().max(), nan=float("inf")))


@contextmanager
def _seen_by(layers: Mapping[str, nn.Module]) -> Iterator[Seen]:
    """The inputs and outputs of layers by name, in the order in which they first run."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def see(name: str, given: Tensor, output: Tensor) -> None:
        lists = seen.pop(name, ([], []))
        lists[0].append(given.detach())
        lists[1].append(output)
        seen[name] = lists

    with watched(layers, see):
        yield seen


def _whose_output(logits: Tensor, seen: Seen, network: nn.Module) -> str:
    """Name of the last linear layer that ran and whose output is the network's output."""
    for name, (_, outputs) in reversed(list(seen.items())):
        if any(each.shape == logits.shape and difference(each.to(logits.dtype), logits) == 0 for each in outputs):
            return name
    if reason := _hidden_layers(network):
        raise PluginError(f"network {type(network).__name__}: {reason}")
    last = ", ".join(list(seen)[-3:]) or "none"
    remedy = AS_IT_IS if seen else "end it in a torch.nn.Linear, as a 1x1 convolution after the pooling can be written"
    raise PluginError(
        f"network {type(network).__name__}: no linear layer's output is the network's output, so its penultimate"
        f" feature is not known (last linear layers that ran: {last}); {remedy}"
    )


def _hidden_layers(network: nn.Module) -> str:
    """Why the linear layers of a network cannot be watched or read, and what to pass; empty where they can."""
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            return (
                "is of TorchScript, which does not show what goes into its layers; pass the network as it was before"
                " torch.jit, or only the layers before its head in TorchScript"
            )
        if ".quantized" in type(module).__module__ and hasattr(module, "in_features"):
            return (
                "has quantised linear layers, whose weights are no floats; pass the network as it was before it was"
                " quantised, or quantise all but its last linear layer, statically"
            )
    return ""
