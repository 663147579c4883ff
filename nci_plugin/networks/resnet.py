"""ResNet-18 for 32x32 images (He et al. 2016, with the 3x3 stem of the CIFAR networks)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from nci_plugin.checks import check_number
from nci_plugin.networks.etf import make_head
from nci_plugin.networks.head import LinearHead


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (n, C_in, H, W) to (n, C_out, H / stride, W / stride), all >= 0."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18_32x32(nn.Module):
    """CIFAR-style ResNet-18: a 3x3 stem, four stages of ``width`` x (1, 2, 4, 8) channels, average pool, ``fc``.

    Parameters and methods are named as in OpenOOD, so that its CIFAR checkpoints load into ``width=64`` and all of its
    postprocessors can use the network. ``feature_size`` is the number of penultimate features, 8 x ``width``; with
    other ``blocks_per_stage`` than 2 it has 2 + 8 x ``blocks_per_stage`` layers; ``head`` as in `make_head`. Raises
    PluginError on arguments that cannot be used.
    """

    def __init__(
        self, num_classes: int = 10, width: int = 64, blocks_per_stage: int = 2, head: str = "learned"
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("width", width), ("blocks_per_stage", blocks_per_stage)):
            check_number(f"ResNet18_32x32: {name}", value, above=0, whole=True)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks_per_stage, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks_per_stage, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks_per_stage, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_size = 8 * width
        self.fc = make_head(self.feature_size, num_classes, head)

    def forward(
        self, x: Tensor, return_feature: bool = False, return_feature_list: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, list[Tensor]]:
        """Logits (n, num_classes) of images (n, 3, H, W); with ``return_feature`` also features (n, feature_size).

        With ``return_feature_list`` instead the maps of the stem and of the stages, the last one pooled to
        (n, feature_size, 1, 1). Features are means of ReLU outputs, so they are never negative.
        """
        *maps, last = self._maps(x)
        pooled = self.avgpool(last)
        features = pooled.flatten(1)
        logits = self.fc(features)
        if return_feature:
            return logits, features
        return (logits, [*maps, pooled]) if return_feature_list else logits

    def forward_threshold(self, x: Tensor, threshold: float) -> Tensor:
        """Logits of features that are clipped at ``threshold`` (ReAct, Sun et al. 2021)."""
        _, features = self(x, return_feature=True)
        return self.fc(features.clip(max=threshold))

    def intermediate_forward(self, x: Tensor, layer_index: int) -> Tensor:
        """The map (n, C, H', W') behind stage ``layer_index``; raises ValueError unless that is 1, 2, 3 or 4."""
        if layer_index not in (1, 2, 3, 4):
            raise ValueError(f"layer_index must be 1, 2, 3 or 4, got {layer_index!r}")
        return next(islice(self._maps(x), layer_index, None))

    def get_fc(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (num_classes, feature_size) and bias (num_classes,) of the last layer, as arrays."""
        head = LinearHead.from_linear(self.fc)
        return head.weight.numpy(), head.bias.numpy()

    def get_fc_layer(self) -> nn.Linear:
        return self.fc

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """The map behind the stem and behind each of the four stages, computed as they are asked for."""
        x = F.relu(self.bn1(self.conv1(x)))
        yield x
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            yield x


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = [BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *later)
