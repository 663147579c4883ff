"""Class means and heads of a known geometry."""

from __future__ import annotations

import math

import torch

from nci_plugin.networks.head import LinearHead


def head_of(weight):
    return LinearHead(weight, torch.zeros(len(weight)))


def rotation(width, seed=0):
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=torch.manual_seed(seed)))[0]


def etf(num_classes, width, seed=0):
    """A simplex ETF of unit vectors in a random subspace, (K, P), P >= K - 1."""
    frame = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    flat = torch.linalg.svd(frame)[2][: num_classes - 1]  # coordinates in the K - 1 dimensions of the simplex
    vertices = (frame * math.sqrt(num_classes / (num_classes - 1))) @ flat.T
    return vertices @ rotation(width, seed)[: num_classes - 1]


def imbalanced(counts=(40, 20, 10, 5), width=7, seed=0, ratio=0.0):
    """Random features and weights of classes of these sizes; the mean is ``ratio`` times the spread."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centres = torch.randn(len(counts), width, dtype=torch.float64, generator=generator) + ratio
    noise = torch.randn(len(labels), width, dtype=torch.float64, generator=generator)
    weight = torch.randn(len(counts), width, dtype=torch.float64, generator=generator)
    return centres[labels] + 0.5 * noise, labels, head_of(weight)
