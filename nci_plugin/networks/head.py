"""The last linear layer of a classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Weights W (K, P) and bias b (K,) of the last layer: logits z = W h + b of a penultimate feature h (P,).

    ``network`` is the class name of the network that the head was cut from, and ``architecture`` the name under which
    timm knows it; some detectors (NECO) follow a rule by architecture. Both are empty where nobody knows.
    """

    weight: Tensor
    bias: Tensor
    network: str = ""
    architecture: str = ""

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise PluginError(
                f"head: expected weights (K, P) and a bias (K,), got {tuple(self.weight.shape)} and"
                f" {tuple(self.bias.shape)}; pass the classifier's last linear layer"
            )

    def __repr__(self) -> str:
        return f"LinearHead({self.weight.shape[1]} features to {len(self.weight)} classes)"

    @classmethod
    def from_linear(cls, layer: nn.Linear, network: str = "", architecture: str = "") -> LinearHead:
        """Copy a linear layer to the CPU in float32; a layer without bias has b = 0."""
        weight = layer.weight.detach().cpu().float().clone()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().float().clone()
        return cls(weight, bias, network, architecture)

    def to(self, device: torch.device) -> LinearHead:
        """The same head with W and b on a device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    @property
    def num_classes(self) -> int:
        """K, the rows of W."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """P, the columns of W."""
        return self.weight.shape[1]

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, K) of features (n, P)."""
        return features @ self.weight.T + self.bias
