"""A small classifier of images in folders, and the images: what the tests of `nci_plugin.deploy` serve."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.deploy.detector import OODDetector

CLASSES, SIZE = 4, 8
NAMES = ("blue", "green", "red", "white")
STEPS = Preprocessing(SIZE, SIZE, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))

NETWORK = """
import torch
from torch import nn

def make(num_classes=4):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, num_classes),
    )

def other(num_classes=4):
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32, num_classes))
"""


def network(seed: int = 0) -> nn.Sequential:
    """A fresh copy of a network that has seen a few batches, so that its batch norm has statistics."""
    return copy.deepcopy(_trained(seed))


@cache
def _trained(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )
        optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
        for step in range(30):
            images, labels = rows(64, seed=1000 + step).tensors
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(images), labels).backward()
            optimizer.step()
    return made.eval()


def pixels(label: int, generator: np.random.Generator) -> np.ndarray:
    """A noisy 8x8 image that leans to the colour of its class."""
    image = generator.integers(0, 140, (SIZE, SIZE, 3))
    channels = {0: [2], 1: [1], 2: [0], 3: [0, 1, 2], -1: []}[label]
    image[:, :, channels] += 60
    return image.astype(np.uint8)


def rows(count: int, seed: int = 0, ood: bool = False) -> TensorDataset:
    """Preprocessed images (n, 3, 8, 8) with labels, drawn as `folders` draws them."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = [STEPS(Image.fromarray(pixels(-1 if ood else label, generator))) for label in labels]
    return TensorDataset(torch.stack(images), torch.from_numpy(labels))


def folders(root: Path, counts: dict[str, int]) -> None:
    """ImageFolders ``<split>/<class>/<number>.png`` under a root; ``mixed`` has no sub-folders and half OOD images."""
    for number, (split, count) in enumerate(counts.items()):
        generator = np.random.default_rng(100 + number)
        for index in range(count):
            label = index % CLASSES
            if split == "mixed":
                path = root / split / f"{'ood' if index % 2 else 'id'}_{index:03}.png"
                label = -1 if index % 2 else label
            else:
                path = root / split / NAMES[label] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(label, generator)).save(path)


def fitted(detector: object = "nci_plus", **settings: object) -> tuple[OODDetector, nn.Sequential]:
    model = network()
    settings = {"preprocessing": STEPS, "progress": False, **settings}
    return OODDetector(detector, **settings).fit(model, rows(120, 1), rows(60, 2)), model  # type: ignore[arg-type]
