"""Heads with and without a bias, and a fixed one, on scikit-learn's digits: simplex (NC2A) or orthogonal frame (NC2B)?

    python scripts/study/heads.py

Theory of free features (scripts/study/unconstrained.py): MSE ends in a simplex ETF with a bias and in an orthogonal
frame without; cross-entropy ends in a simplex ETF with and without. Here an MLP of three hidden layers of 64 is trained
for each head and loss. NC2A is `nc2_equiangular_weights` (0 at the simplex), NC2B the mean |cos| of pairs of weights
(0 at the orthogonal frame); the signed mean cosine of
weights is -1/(K-1) = -0.111 at the one and 0 at the other. Half of the images train, the others test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import t
from sklearn.datasets import load_digits
from torch import Tensor

from nci_plugin import ClassStatistics, LinearHead
from nci_plugin.collapse import measure
from nci_plugin.collapse.imbalance import mean_abs_cosine
from nci_plugin.collapse.means import mean_cosine
from nci_plugin.networks.etf import HEADS
from nci_plugin.networks.mlp import MLP
from nci_plugin.training.train import Recipe, train

CLASSES, WIDTH, EPOCHS = 10, 64, 200
MEASURES = ("NC2A", "NC2B", "mean cosine", "NC1", "NC3 centred", "NC3 uncentred", "test accuracy, %")


def halves() -> Iterator[tuple[Tensor, Tensor]]:
    """Training and test images (n, 3, 8, 8), about 0 and of order 1, with labels (n,)."""
    data = load_digits()
    images = torch.tensor(data.images / 8 - 1, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    labels, order = torch.tensor(data.target), np.random.default_rng(0).permutation(len(data.target))
    for rows in np.array_split(order, 2):
        yield images[rows], labels[rows]


def run(head: str, loss: str, seed: int, epochs: int = EPOCHS) -> dict[str, float]:
    """MEASURES of one network."""
    (images, labels), (test_images, test_labels) = halves()
    recipe = Recipe(
        epochs, 64, 3e-3, weight_decay=3e-4, augment=False, optimizer="adam", schedule="cosine", loss=loss
    )  # fmt: skip
    network, _ = train(lambda: MLP(CLASSES, WIDTH, head=head), images, labels, recipe, seed)
    with torch.no_grad():
        _, features = network(images, return_feature=True)
        accuracy = float((network(test_images).argmax(dim=1) == test_labels).float().mean())
    layer = LinearHead.from_linear(network.fc)
    metrics = measure(ClassStatistics(CLASSES, WIDTH).update(features, labels), layer)
    weight = layer.weight.double()
    values = (
        *(metrics.nc2_equiangular_weights, mean_abs_cosine(weight), mean_cosine(weight), metrics.nc1_quotient),
        *(metrics.nc3_cosine_mean, metrics.uncentred_cosine_mean, 100 * accuracy),
    )
    return dict(zip(MEASURES, values))


def interval(values: list[float]) -> str:
    """Mean ± half of Student's 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind, at least 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| loss | head | trained parameters of the head | {' | '.join(MEASURES)} |")
    print(f"|---|---|---|{'---|' * len(MEASURES)}")
    for loss in ("mse", "ce"):
        for head in HEADS:
            runs = [run(head, loss, seed, options.epochs) for seed in range(options.seeds)]
            cells = [interval([each[name] for each in runs]) for name in MEASURES]
            layer = MLP(CLASSES, WIDTH, head=head).fc
            trained = sum(each.numel() for each in layer.parameters() if each.requires_grad)
            print(f"| {loss} | {head} | {trained} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
