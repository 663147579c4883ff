"""Geometric complexity: how much a network's features vary with its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite
from nci_plugin.collapse.registry import BEYOND, metric


@metric("geometric complexity", of="function inputs", into=BEYOND)
def geometric_complexity(function: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """(1/n) sum_i ||df/dx (x_i)||_F^2 of features f (n, P) of inputs x (n, ...), from 0 up, by P backward passes.

    The discrete Dirichlet energy of the map (Dherin et al. 2022; of embeddings, Munn et al. 2024, arXiv 2405.15706).
    ``function`` must treat every input by itself (eval mode). In the precision of f, with the unit of f^2 / x^2. Raises
    PluginError without inputs, or where f is not (n, P) or no function of x.
    """
    if not len(inputs):
        raise PluginError("geometric complexity: needs an input, got none")
    check_finite("geometric complexity: inputs", inputs.flatten(1))
    with torch.enable_grad():
        points = inputs.detach().clone().requires_grad_()
        outputs = function(points)
        if outputs.ndim != 2 or len(outputs) != len(inputs) or not outputs.requires_grad:
            raise PluginError(
                f"geometric complexity: needs features (n, P) that depend on {len(inputs)} inputs, got shape"
                f" {tuple(outputs.shape)}; pass a function of inputs that gives features, not under no_grad"
            )
        total = torch.zeros((), dtype=torch.float64)
        for column in outputs.sum(dim=0):
            (gradient,) = torch.autograd.grad(column, points, retain_graph=True)
            total += gradient.double().square().sum().cpu()
    return float(total / len(inputs))
