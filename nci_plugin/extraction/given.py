"""Splits that are given as features: no image passes, and they are not stored."""

from __future__ import annotations

import torch
from torch import nn

from nci_plugin.benchmarks.benchmark import Features
from nci_plugin.benchmarks.image_list import OOD_LABEL
from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.extraction.sums import FEATURES, UNIT
from nci_plugin.feature_bank import FeatureSplit
from nci_plugin.head import LinearHead
from nci_plugin.networks.cut import Cut
from nci_plugin.statistics import ClassStatistics, unit_rows


def head_of(network: nn.Module, name: str | None) -> LinearHead:
    """The head of a network that sees no image: the layer named, or its last linear layer."""
    if isinstance(network, nn.Linear):
        return LinearHead.from_linear(network)
    linears = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not name and not linears:
        raise PluginError(f"network {type(network).__name__}: has no linear layer; pass its head as a LinearHead")
    return Cut(network, name or linears[-1]).head


def given_split(name: str, split: Features, head: LinearHead) -> FeatureSplit:
    """Features that `open_splits` checked, with labels and logits where none were given."""
    features = split.features
    check_width(f"split '{name}'", features, head.num_features)
    labels = torch.full((len(features),), OOD_LABEL) if split.labels is None else split.labels
    logits = head.logits(features) if split.logits is None else split.logits
    check_finite(f"split '{name}' logits", logits)
    return FeatureSplit.of(features, logits, labels)


def given_statistics(split: FeatureSplit, head: LinearHead, unit: bool) -> dict[str, ClassStatistics]:
    """Statistics of a training split, as `training_sums` names them."""
    found = {name: ClassStatistics(head.num_classes, head.num_features) for name in (FEATURES, UNIT)[: 1 + unit]}
    for chunk in split.chunks():
        for name, statistics in found.items():
            statistics.update(unit_rows(chunk.features) if name == UNIT else chunk.features, chunk.labels)
    return found
