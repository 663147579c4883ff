"""The last layer of the small networks: learned, with or without a bias, or fixed as a simplex ETF."""

from __future__ import annotations

import torch
from torch import nn

from nci_plugin.checks import PluginError, check_choice
from nci_plugin.networks.named import HEADS


def make_head(num_features: int, num_classes: int, kind: str = "learned") -> nn.Linear:
    """A last layer from P to K: ``learned``, ``bias_free``, learned too, or ``fixed_etf``, frozen and without a bias.

    The fixed weights are a simplex ETF of unit rows in a random orientation: cos(w_j, w_k) = -1 / (K - 1)
    (Zhu et al. 2021; Yang et al. 2022). Raises PluginError on another kind, or where P < K - 1 leaves no room for it.
    """
    check_choice("head", kind, HEADS)
    if kind != "fixed_etf":
        return nn.Linear(num_features, num_classes, bias=kind == "learned")
    if not 2 <= num_classes <= num_features + 1:
        raise PluginError(
            f"head 'fixed_etf': a simplex ETF of K classes needs K >= 2 and at least K - 1 features, got {num_classes}"
            f" classes and {num_features} features; choose a larger width or the learned head"
        )
    layer = nn.Linear(num_features, num_classes, bias=False)
    # Rows of the centring matrix in an orthonormal basis of its range, then turned into the feature space.
    centring = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    basis = torch.linalg.eigh(centring).eigenvectors[:, 1:]
    directions = torch.linalg.qr(torch.randn(num_features, num_classes - 1, dtype=torch.float64)).Q
    etf = (num_classes / (num_classes - 1)) ** 0.5 * basis @ directions.T
    layer.weight = nn.Parameter(etf.to(layer.weight), requires_grad=False)
    return layer
