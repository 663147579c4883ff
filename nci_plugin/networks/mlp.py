"""A multi-layer perceptron on small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nci_plugin.checks import check_choice, check_number
from nci_plugin.networks.etf import make_head

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units behind the pixels, then ``fc``; no normalisation layers.

    Images (n, 3, H, W) are averaged to ``image_size`` x ``image_size`` pixels first. ``feature_size``, the number of
    penultimate features, is ``width``. Raises PluginError on arguments that cannot be used.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 128,
        depth: int = 3,
        activation: str = "relu",
        head: str = "learned",
        image_size: int = 8,
    ) -> None:
        super().__init__()
        numbers = {"num_classes": num_classes, "width": width, "depth": depth, "image_size": image_size}
        for name, value in numbers.items():
            check_number(f"MLP: {name}", value, above=0, whole=True)
        check_choice("MLP: activation", activation, ACTIVATIONS)
        self.image_size, self.feature_size = image_size, width
        sizes = [3 * image_size**2, *[width] * depth]
        layers = [layer for size in zip(sizes, sizes[1:]) for layer in (nn.Linear(*size), ACTIVATIONS[activation]())]
        self.hidden = nn.Sequential(*layers)
        self.fc = make_head(width, num_classes, head)

    def forward(self, x: Tensor, return_feature: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (n, num_classes) of images (n, 3, H, W); with ``return_feature`` also features (n, feature_size)."""
        features = self.hidden(F.adaptive_avg_pool2d(x, self.image_size).flatten(1))
        logits = self.fc(features)
        return (logits, features) if return_feature else logits

    def get_fc_layer(self) -> nn.Linear:
        return self.fc
