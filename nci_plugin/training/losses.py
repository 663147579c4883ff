"""What the small networks are trained to minimise."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 0.1
"""Share of the target that label smoothing spreads evenly over all classes (Szegedy et al. 2016)."""

FOCUS = 2.0
"""The focal loss's exponent gamma, the value that its paper found best (Lin et al. 2017)."""


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of (z_k - [k = y])^2 over samples and classes (Hui & Belkin 2021; Han et al. 2022)."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).to(logits))


def label_smoothing(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with smoothed targets, in nats (Szegedy et al. 2016; Mueller et al. 2019)."""
    return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -(1 - p_y)^gamma log p_y, in nats, without class weights (Lin et al. 2017)."""
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    return -((1 - log_p.exp()) ** FOCUS * log_p).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": F.cross_entropy,
    "mse": mean_squared_error,
    "label_smoothing": label_smoothing,
    "focal": focal,
}
"""Each takes logits (n, K) and labels (n,), and gives the mean over the batch."""

CE_THEN_MSE = "ce_then_mse"
"""Cross-entropy first, then the squared error (the protocol of arXiv 2604.00230)."""

NAMES = (*LOSSES, CE_THEN_MSE)
