"""Unconstrained features: collapse as the minimum of a loss over free features H, weights W and bias b.

    python scripts/study/unconstrained.py

    min (1/N) sum_i loss(W h_i + b, y_i) + (lambda_w / 2) ||W||_F^2 + (lambda_h / 2) ||H||_F^2

by L-BFGS in float64 from a random start. With P >= K it is convex in Z = W H, where both decays become
sqrt(lambda_w lambda_h) ||Z||_* (Zhu et al. 2021; Hong & Ling 2023), and that gives the answers that are known:

* cross-entropy, also with label smoothing or focal, and MSE with bias: a simplex ETF, self-dual (Zhu et al. 2021,
  Zhou et al. 2022);
* MSE without bias: W is an orthogonal frame, of lengths from singular values sqrt(n_k) - N sqrt(lambda_w lambda_h) of
  Z, and a class with n_k <= N^2 lambda_w lambda_h has no weight at all (Dang et al. 2023);
* cross-entropy, minority classes of n_b samples each: their weights and means merge exactly where
  n_b <= N^2 lambda_w lambda_h. Where they are merged, the gradient (P - Y) / N of the loss, projected onto the
  differences of minority classes, has the singular value sqrt(n_b) / N, and Z is the minimum while that is at most the
  weight of the nuclear norm (minority collapse, Fang et al. 2021).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from nci_plugin import ClassStatistics, LinearHead
from nci_plugin.collapse import CollapseMetrics, measure
from nci_plugin.collapse.geometry import pair_cosines

DECAY = 5e-3
GAMMA, SMOOTHING = 2.0, 0.1
SHOWN = (
    "nc1_quotient", "nc2_etf_error", "nc2_equiangular_weights", "gof_mean_abs_cosine_uncentred", "nc3_self_duality"
)  # fmt: skip
RATIOS = (1, 2, 4, 6, 8, 10, 12, 13, 14, 16, 20)
GROUP, MINORITY, SWEPT_DECAY = 3, 2, 0.15
"""Classes in the majority and in the minority, samples of a minority class, and the decay of the sweep."""


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """(1 - p_y)^2 times cross-entropy (Lin et al. 2017)."""
    negative = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-negative).exp()) ** GAMMA * negative).mean()


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    """||z - e_y||^2 / 2, mean over samples."""
    return (logits - functional.one_hot(labels, logits.shape[1])).square().sum(dim=1).mean() / 2


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": functional.cross_entropy,
    "label smoothing": lambda logits, labels: functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING),
    "focal": focal,
    "MSE": squared,
}


@dataclass(frozen=True)
class Minimum:
    """What L-BFGS found: features (N, P), labels (N,), the head, and the largest gradient that was left."""

    features: Tensor
    labels: Tensor
    head: LinearHead
    gradient: float

    @property
    def statistics(self) -> ClassStatistics:
        return ClassStatistics(self.head.num_classes, self.head.num_features).update(self.features, self.labels)

    @property
    def metrics(self) -> CollapseMetrics:
        return measure(self.statistics, self.head)


def solve(
    sizes: Sequence[int],
    width: int,
    loss: str = "cross-entropy",
    bias: bool = True,
    decay: float = DECAY,
    seed: int = 0,
) -> Minimum:
    """The minimum for classes of ``sizes`` samples and P = ``width`` features.

    ``decay`` is lambda_w; lambda_h is decay / N, so that a class mean is held as a weight is, whatever N.
    """
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    count, classes = len(labels), len(sizes)
    shapes = [(count, width), (classes, width), (classes,) if bias else (0,)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    generator = np.random.default_rng(seed)

    def parts(flat: Tensor) -> list[Tensor]:
        return [piece.reshape(shape) for piece, shape in zip(flat.tensor_split(ends[:-1].tolist()), shapes)]

    def objective(point: Any) -> tuple[float, Any]:
        flat = torch.tensor(point, requires_grad=True)
        features, weight, offset = parts(flat)
        logits = features @ weight.T + (offset if bias else 0)
        held = (weight.square().sum() + features.square().sum() / count) * decay / 2
        value = LOSSES[loss](logits, labels) + held
        value.backward()
        assert flat.grad is not None
        return value.item(), flat.grad.numpy()

    found = minimize(
        objective, generator.normal(size=ends[-1]) * 0.3, jac=True, method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-9, "maxcor": 30},
    )  # fmt: skip
    features, weight, offset = parts(torch.tensor(found.x))
    head = LinearHead(weight, offset if bias else torch.zeros(classes, dtype=weight.dtype))
    return Minimum(features, labels, head, float(np.abs(found.jac).max()))


def threshold(majority_classes: int, minority_classes: int, decay: float) -> float:
    """The ratio R = n_a / n_b of class sizes from which on minority classes merge, whatever n_b.

    n_b = N^2 lambda_w lambda_h with lambda_w = decay, lambda_h = decay / N and N = n_b (K_a R + K_b).
    """
    return (1 / decay**2 - minority_classes) / majority_classes


def sweep(ratios: Sequence[int] = RATIOS, seeds: int = 3) -> Iterator[tuple[int, list[float]]]:
    """Cosines of minority weights at each ratio, one a seed: cross-entropy, three classes of 2 R and three of 2."""
    for ratio in ratios:
        sizes = [MINORITY * ratio] * GROUP + [MINORITY] * GROUP
        found = [solve(sizes, 2 * GROUP + 1, decay=SWEPT_DECAY, seed=seed) for seed in range(seeds)]
        yield ratio, [minority_cosine(each.head.weight[GROUP:]) for each in found]


def minority_cosine(weight: Tensor) -> float:
    """Mean cosine of all pairs of rows, also where classes are balanced and the metric has no value."""
    return float(pair_cosines(weight.double()).mean())


def table(seeds: int = 3) -> Iterator[str]:
    """Largest value over seeds of what is 0 at each frame, for each loss with and without bias."""
    yield f"| loss | bias | {' | '.join(SHOWN)} |"
    yield f"|---|---|{'---|' * len(SHOWN)}"
    for loss in LOSSES:
        for bias in (True, False):
            all_metrics = [solve([6] * 4, 7, loss, bias, seed=seed).metrics for seed in range(seeds)]
            cells = [f"{max(metrics.values[name] for metrics in all_metrics):.1e}" for name in SHOWN]
            yield f"| {loss} | {'yes' if bias else 'no'} | {' | '.join(cells)} |"


def draw(rows: Sequence[tuple[int, list[float]]], path: Path) -> None:
    """Cosine of minority weights against the ratio, with the threshold."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([ratio for ratio, _ in rows], [np.mean(values) for _, values in rows], "o-", markersize=4)
    merge = threshold(GROUP, GROUP, SWEPT_DECAY)
    axis.axvline(merge, color="0.3", linestyle="--", label=f"threshold R = {merge:.2f}")
    axis.set_xlabel("majority / minority class size R")
    axis.set_ylabel("mean cosine of minority weights")
    axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="where the sweep is drawn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(table()))
    rows = list(sweep())
    print("\n| R | mean cosine of minority weights, least to largest over 3 seeds |\n|---|---|")
    print("\n".join(f"| {ratio} | {min(values):.6f} to {max(values):.6f} |" for ratio, values in rows))
    print(f"\nthreshold: R = {threshold(GROUP, GROUP, SWEPT_DECAY):.2f}")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
