"""The stages of any network, and their pooled outputs beside the penultimate features of one forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nci_plugin.networks.calling import watched
from nci_plugin.networks.cut import Cut

PENULTIMATE = "penultimate"
TRUNK_SHARE = 0.9
"""A module that holds more of the parameters before the head than this is no stage: its children are."""

POOLING = (
    "feature maps are averaged over their positions, tokens (class token included) over the sequence; the last row is"
    " the network's own penultimate feature"
)


def find_stages(network: nn.Module, head: str) -> list[str]:
    """Names of the stages before the layer ``head``, in the order in which the network holds them.

    They are the children of the network that have children themselves (else all with parameters), and a child with
    over 90 % of the parameters stands for its own children: ``layer1`` ... ``layer4`` of a ResNet, the blocks of a
    transformer, the stages of Swin.
    """
    parts = _expanded(network, "", head)
    blocks = [name for name, part in parts if any(True for _ in part.children())]
    return blocks or [name for name, _ in parts]


def _expanded(module: nn.Module, prefix: str, head: str) -> list[tuple[str, nn.Module]]:
    """Children with parameters, without the head; one that holds the head or most parameters gives its own."""
    parts = [(prefix + name, child) for name, child in module.named_children()]
    sizes = {name: _parameters(part, name, head) for name, part in parts}
    parts = [(name, part) for name, part in parts if sizes[name]]
    found: list[tuple[str, nn.Module]] = []
    for name, part in parts:
        holds_head = head.startswith(f"{name}.")
        is_trunk = holds_head or sizes[name] > TRUNK_SHARE * sum(sizes.values())
        inner = _expanded(part, f"{name}.", head) if is_trunk else []
        found += inner or ([] if holds_head else [(name, part)])
    return found


def _parameters(module: nn.Module, name: str, head: str) -> int:
    """Parameters of a module, but for those of the head."""
    named = module.named_parameters()
    return sum(parameter.numel() for key, parameter in named if f"{name}.{key}".rpartition(".")[0] != head)


class StageFeatures:
    """A network whose forward pass gives the pooled outputs of its stages beside features and logits."""

    def __init__(self, network: nn.Module, cut: Cut) -> None:
        self.cut = cut
        modules = dict(network.named_modules())
        self._stages = {name: modules[name] for name in find_stages(network, cut.head_name)}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features (n, P), logits (n, K) and the pooled output (n, P_s) of every stage that has one.

        All are float32 on the network's device; stages come in the order in which they ran.
        """
        outputs: dict[str, Any] = {}
        with watched(self._stages, lambda name, _, output: outputs.update({name: output})):
            features, logits = self.cut(images)
        pooled = {name: pool(output, len(images)) for name, output in outputs.items()}
        return features, logits, {name: tensor.float() for name, tensor in pooled.items() if tensor is not None}


def pool(output: Any, count: int) -> Tensor | None:
    """The output of a stage as features (count, P), averaged over positions or tokens; None if it has no such shape.

    Maps are (n, P, H, W), or (n, H, W, P) where the last side alone differs, as in Swin; tokens are (n, T, P).
    """
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[0] != count:
        return None
    if output.ndim == 4:
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        return output.mean(dim=(1, 2) if channels_last else (2, 3))
    if output.ndim == 3:
        return output.mean(dim=1)
    return output if output.ndim == 2 else None
