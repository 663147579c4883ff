"""Progressive collapse through a CNN and a transformer on scikit-learn's digits, stage by stage in one pass.

    python scripts/study/progressive.py

A ResNet-18 with an eighth of the channels and a vision transformer of six blocks of 32 numbers learn the ten digits
(899 train, 898 test). One forward pass over the training images gives the pooled outputs of all stages beside the
penultimate features (`nci_plugin.networks.stages.StageFeatures`, as ``nci-ood diagnose --layers`` does). Over stages:
monotonicity and factor of NC1 = Tr(Sigma_W) / Tr(Sigma_B) and of Tr(pinv(Sigma_B) Sigma_W) / K
(`nci_plugin.collapse.progress`; He & Su 2023), and the mean cosine within classes, before and after training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from heads import halves
from scipy.stats import t as student
from torch import nn
from torchvision.models import VisionTransformer

from nci_plugin import ClassStatistics
from nci_plugin.collapse import progress
from nci_plugin.collapse.geometry import between_directions, centred_means
from nci_plugin.collapse.progressive import Directions
from nci_plugin.collapse.variability import nc1_pinv, nc1_quotient
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.networks.stages import PENULTIMATE, StageFeatures
from nci_plugin.training.train import Recipe, train

CLASSES, EPOCHS = 10, 15
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": lambda: ResNet18_32x32(CLASSES, width=8),
    "transformer": lambda: VisionTransformer(8, 2, 6, 4, 32, 64, num_classes=CLASSES),
}


def stages(network: nn.Module) -> dict[str, dict[str, float]]:
    """NC1, its pinv form and the cosine within classes of every stage on the training images, of one pass."""
    images, labels = next(halves())
    with torch.no_grad():
        features, _, outputs = StageFeatures(network.eval(), Cut.of(network, images[:8]))(images)
    *_, last = outputs.values()
    if last.shape == features.shape and torch.allclose(last, features, rtol=1e-5):
        outputs.popitem()  # a ResNet's last stage, pooled, is the penultimate feature
    found = {}
    for name, rows in {**outputs, PENULTIMATE: features}.items():
        statistics = ClassStatistics(CLASSES, rows.shape[1]).update(rows, labels)
        found[name] = {
            "NC1": nc1_quotient(statistics),
            "NC1 pinv": nc1_pinv(statistics, between_directions(centred_means(statistics))),
            "cosine": Directions(CLASSES, rows.shape[1]).update(rows, labels).mean_cosine(),
        }
    return found


def run(kind: str, seed: int, epochs: int = EPOCHS) -> Iterator[dict[str, dict[str, float]]]:
    """`stages` before and after training."""
    images, labels = next(halves())
    torch.manual_seed(seed)
    yield stages(NETWORKS[kind]())
    recipe = Recipe(epochs, 64, 2e-3, augment=False, optimizer="adam", schedule="cosine", weight_decay=1e-4)
    network, _ = train(NETWORKS[kind], images, labels, recipe, seed)
    yield stages(network)


def summary(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How the stages of one network follow each other."""
    numbers = {}
    for name in ("NC1", "NC1 pinv"):
        over = progress([stage[name] for stage in found.values()])
        numbers[f"{name}, monotonicity"] = over.monotonicity
        numbers[f"{name}, factor a stage"] = over.factor
        numbers[f"{name}, R²"] = float("nan") if over.determination is None else over.determination
    first, *_, last = found.values()
    return {**numbers, "NC1, last stage": last["NC1"], "cosine, first": first["cosine"], "cosine, last": last["cosine"]}


def interval(values: Sequence[float]) -> str:
    """Mean ± half of Student's 95 % interval."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns: dict[str, list[dict[str, float]]] = {}
    for kind in NETWORKS:
        for seed in range(options.seeds):
            for when, found in zip(("before", "after"), run(kind, seed)):
                columns.setdefault(f"{kind} of {len(found)} stages, {when}", []).append(summary(found))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in next(iter(columns.values()))[0]:
        print(f"| {name} | {' | '.join(interval([each[name] for each in rows]) for rows in columns.values())} |")


if __name__ == "__main__":
    main()
