"""Splits that are given as features: no image passes, and they are not stored."""

from __future__ import annotations

import torch
from torch import nn

from nci_plugin.benchmarks.benchmark import Features
from nci_plugin.benchmarks.image_list import OOD_LABEL
from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.features.sums import FEATURES, UNIT
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import agrees, head_on_features

COMPARED_ROWS = 1024
"""Rows of a split, evenly spaced, whose logits are compared with those of the head."""


def head_of(network: nn.Module, name: str | None, num_classes: int, split: Features) -> LinearHead:
    """The head of a network that sees no image: see `head_on_features`."""
    return head_on_features(network, name, num_classes, split.features, split.logits)


def given_split(name: str, split: Features, head: LinearHead) -> FeatureSplit:
    """Features that `open_splits` checked, with labels and logits where none were given.

    Raises PluginError on logits that are not the head's.
    """
    features = split.features
    check_width(f"split '{name}'", features, head.num_features)
    labels = torch.full((len(features),), OOD_LABEL) if split.labels is None else split.labels
    logits = head.logits(features) if split.logits is None else split.logits
    check_finite(f"split '{name}' logits", logits)
    if split.logits is not None:
        rows = torch.linspace(0, len(features) - 1, min(len(features), COMPARED_ROWS)).long()
        if not agrees(head, split.features[rows], split.logits[rows]):
            raise PluginError(
                f"split '{name}': its logits are not W h + b of its features with the head's weights; pass the head and"
                " the features and logits of one network, row by row, or leave the logits out"
            )
    return FeatureSplit.of(features, logits, labels)


def given_statistics(split: FeatureSplit, head: LinearHead, unit: bool) -> dict[str, ClassStatistics]:
    """Statistics of a training split, as `training_sums` names them."""
    found = {name: ClassStatistics(head.num_classes, head.num_features) for name in (FEATURES, UNIT)[: 1 + unit]}
    for chunk in split.chunks():
        for name, statistics in found.items():
            statistics.update(unit_rows(chunk.features) if name == UNIT else chunk.features, chunk.labels)
    return found
