"""Heads with and without a bias, and a fixed one, on scikit-learn's digits: simplex (NC2A) or orthogonal frame (NC2B)?

    python scripts/study/heads.py
    python scripts/study/heads.py --resnet18

Theory of free features (scripts/study/unconstrained.py): MSE ends in a simplex ETF with a bias and in an orthogonal
frame without; cross-entropy ends in a simplex ETF with and without. Here an MLP of three hidden layers of 64 is trained
for each head and loss. NC2A is `nc2_equiangular_weights` (0 at the simplex), NC2B `gof_mean_abs_cosine_weights`
(0 at the orthogonal frame); the signed mean cosine of weights is -1/(K-1) = -0.111 at the one and 0 at the other. Half
of the images train, the others test.

``--resnet18``: what one step of SGD with momentum holds, of a ResNet-18 for 32 x 32 images with a learned head, with a
fixed one, and with a fixed one on P = K features (Zhu et al. 2021, who say that it saves over 20 % of memory); and the
test accuracy of the same with an eighth of the channels, trained on the digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nci_plugin import ClassStatistics, LinearHead
from nci_plugin.collapse import measure
from nci_plugin.collapse.means import mean_cosine
from nci_plugin.networks.etf import HEADS, make_head
from nci_plugin.networks.mlp import MLP
from nci_plugin.networks.resnet import BasicBlock, ResNet18_32x32
from nci_plugin.training.train import Recipe, train

CLASSES, WIDTH, EPOCHS, RESNET_EPOCHS = 10, 64, 200, 20
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
        *(metrics.nc2_equiangular_weights, metrics.gof_mean_abs_cosine_weights, mean_cosine(weight)),
        *(metrics.nc1_quotient, metrics.nc3_cosine_mean, metrics.uncentred_cosine_mean, 100 * accuracy),
    )
    return dict(zip(MEASURES, values))


def interval(values: list[float]) -> str:
    """Mean ± half of Student's 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def resnet18(num_classes: int, head: str, narrow: str = "", width: int = 64) -> ResNet18_32x32:
    """A ResNet-18 for 32 x 32 images; ``narrow``: P = K by its last ``convolution``, or its whole last ``block``."""
    network = ResNet18_32x32(num_classes, width, head=head)
    if narrow:
        features = network.feature_size
        block = BasicBlock(features, num_classes, stride=1)
        if narrow == "convolution":
            block.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
            block.bn1 = nn.BatchNorm2d(features)
            block.conv2 = nn.Conv2d(features, num_classes, 3, padding=1, bias=False)
        network.layer4[-1] = block
        network.feature_size = num_classes
        network.fc = make_head(num_classes, num_classes, head)
    return network


FORMS = (("learned", ""), ("fixed_etf", ""), ("fixed_etf", "convolution"), ("fixed_etf", "block"))
"""Heads of the ResNet-18, and what is narrowed to P = K."""


def held(network: nn.Module, batch: int = 32) -> dict[str, float]:
    """Parameters, and MB of float32 that one step of training holds: weights, gradients and momentum; activations.

    Activations are what autograd saved for the backward pass of ``batch`` images, each memory once, without weights.
    """
    images = torch.randn(batch, 3, 32, 32)
    optimiser = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], 0.1, momentum=0.9)
    weights = {each.untyped_storage().data_ptr() for each in network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).logsumexp(dim=1).mean()
    loss.backward()
    optimiser.step()
    parameters = list(network.parameters())
    momentum: list[Any] = [state["momentum_buffer"] for state in optimiser.state.values()]
    gradients = [each.grad for each in parameters if each.grad is not None]
    state = sum(each.numel() * each.element_size() for each in (*parameters, *gradients, *momentum))
    return {
        "parameters": sum(each.numel() for each in parameters),
        "weights, gradients, momentum, MB": state / 2**20,
        f"activations of {batch} images, MB": sum(saved.values()) / 2**20,
    }


def savings() -> Iterator[str]:
    """A table of `held`, and how much less than with the learned head."""
    names = [*held(resnet18(10, "learned", width=1)), "sum, MB"]
    yield f"| K | head | P = K by its last | P | {' | '.join(names)} |\n|---|---|---|---|{'---|' * len(names)}"
    for classes in (10, 100):
        base: list[float] = []
        for head, narrow in FORMS:
            network = resnet18(classes, head, narrow)
            values = list(held(network).values())
            values.append(sum(values[1:]))
            base = base or values
            cells = [f"{value:.4g} ({100 * (value / first - 1):+.1f} %)" for value, first in zip(values, base)]
            cells[0] = f"{values[0]:,} ({100 * (values[0] / base[0] - 1):+.1f} %)"
            yield f"| {classes} | {head} | {narrow or '-'} | {network.feature_size} | {' | '.join(cells)} |"


def narrowed(head: str, narrow: str, seed: int, epochs: int) -> float:
    """Test accuracy in percent on digits of a ResNet-18 with an eighth of the channels."""
    (images, labels), (test_images, test_labels) = halves()
    recipe = Recipe(epochs, 64, 3e-3, augment=False, optimizer="adam", schedule="cosine")
    network, _ = train(lambda: resnet18(CLASSES, head, narrow, width=8), images, labels, recipe, seed)
    with torch.no_grad():
        return 100 * float((network(test_images).argmax(dim=1) == test_labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind, at least 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training")
    parser.add_argument("--resnet18", action="store_true", help="count what a ResNet-18 holds instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.resnet18:
        print("\n".join(savings()))
        print("\n| head | P = K by its last | test accuracy on digits, % |\n|---|---|---|")
        for head, narrow in FORMS:
            values = [narrowed(head, narrow, seed, RESNET_EPOCHS) for seed in range(options.seeds)]
            print(f"| {head} | {narrow or '-'} | {interval(values)} |", flush=True)
        return
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
