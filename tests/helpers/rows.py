"""A benchmark of random images that are brighter in the rows of their class, and a network trained on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nci_plugin import Benchmark, Preprocessing
from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.networks.mlp import MLP
from nci_plugin.training.train import Recipe, train

NORMALIZATION = ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
SIZE, CLASSES = 8, 3


def split(seed: int, count: int, ood: bool = False) -> list:
    """Normalised images of random grey values, brighter in rows of their class; OOD ones in none."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in NORMALIZATION)
    items = []
    for index in range(count):
        pixels = 0.5 * torch.rand(3, SIZE, SIZE, generator=generator)
        label = index % CLASSES
        if not ood:
            pixels[:, 2 * label : 2 * label + 2] += 0.4
        items.append(((pixels - mean) / deviation, -1 if ood else label))
    return items


class Items(torch.utils.data.Dataset):
    def __init__(self, items: list) -> None:
        self.items, self.read = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.items[index]


def rows() -> Benchmark:
    return Benchmark.from_splits(
        "rows",
        CLASSES,
        train=Items(split(0, 60)),
        val=Items(split(1, 30)),
        test=Items(split(2, 45)),
        ood_val=Items(split(3, 20, ood=True)),
        near={"none": Items(split(4, 30, ood=True))},
        far={"other": Items(split(5, 25, ood=True))},
        csid={"more": Items(split(6, 20))},
        preprocessing=Preprocessing(SIZE, SIZE, NORMALIZATION),
    )


def tensors(benchmark: Benchmark, name: str) -> tuple[Tensor, Tensor]:
    items = benchmark.splits[name].items
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


def trained(benchmark: Benchmark) -> nn.Module:
    recipe = Recipe(epochs=15, batch_size=10, learning_rate=3e-3, augment=False, optimizer="adam")
    return train(lambda: MLP(CLASSES, 16, 2), *tensors(benchmark, TRAIN), recipe, seed=0)[0]
