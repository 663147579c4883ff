"""The script of the pre-registered test: its rule, and its draws."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "study"))

import second_form
from stored import Network

from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"a": (0.4, 1.0), "b": (-0.4, 0.2)}, "nci_gated is not recommended: mean +0.00 / +0.60 over 2 networks"),
        ({"a": (0.4, 1.0), "b": (-0.3, 0.2)}, "nci_gated is recommended: mean +0.05 / +0.60 over 2 networks"),
        (
            {"a": (3.0, 3.0), "b": (-0.6, 0.2)},
            "nci_gated is not recommended: mean +1.20 / +1.60 over 2 networks; below the margin on b -0.60 / +0.20",
        ),
    ],
)
def test_the_rule(gains, expected):
    assert second_form.verdict({name: np.array(pair) for name, pair in gains.items()}) == expected


def test_draws_have_so_many_images_of_each_class_and_differ():
    labels = torch.arange(3).repeat_interleave(20)
    head = LinearHead(torch.eye(3, 4), torch.zeros(3))
    features = torch.rand(60, 4)
    network = Network("n", "", {"id/train": FeatureSplit.of(features, head.logits(features), labels)}, head)
    draws = [second_form.thinned(network, 5, seed).splits["id/train"] for seed in (0, 0, 1)]
    assert all(torch.bincount(draw.labels).tolist() == [5, 5, 5] for draw in draws)
    assert torch.equal(draws[0].features, draws[1].features)
    assert not torch.equal(draws[0].features, draws[2].features)


def test_a_case_is_a_directory_and_images():
    case = second_form.Case.parse("results/cifar10_vit@10")
    assert (case.name, case.images) == ("cifar10_vit@10", 10)
    assert second_form.Case.parse("results/cifar10_vit").images is None
