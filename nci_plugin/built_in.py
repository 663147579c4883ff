"""What the built-in benchmark needs and a fresh machine lacks: its images and its checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.digits import is_complete, write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.networks.factory import build_network
from nci_plugin.training import Recipe, save_checkpoint, train

SEEDS = {"s0": 0, "s1": 1, "s2": 2}

REGIMES = {
    "standard": Recipe(),
    # To zero training error and on, with nothing that regularises.
    "overfit": Recipe(epochs=30, learning_rate=1e-3, weight_decay=0.0, augment=False, optimizer="adam"),
    "long_tailed": Recipe(),
}
"""How `train_checkpoint` can train. ``long_tailed`` is the standard recipe on the benchmark's long-tailed variant."""


def write_data(data_root: Path) -> bool:
    """Write the digits benchmark under ``data_root`` if it is not there; returns whether it had to."""
    if is_complete(data_root):
        return False
    write_digits(data_root)
    return True


def missing_checkpoints(directory: Path) -> list[str]:
    """Seeds whose ``best.ckpt`` is not in ``directory``."""
    return [seed for seed in SEEDS if not (directory / seed / "best.ckpt").is_file()]


def train_checkpoint(
    benchmark: Benchmark, directory: Path, seed: str, device: torch.device, recipe: Recipe | None = None
) -> dict[str, float]:
    """Train one seed's network on the benchmark's training images; returns its last epoch's loss and accuracy."""
    source = benchmark.splits[TRAIN]
    assert isinstance(source, ImageList)
    assert benchmark.network is not None
    factory = benchmark.network
    files = source.read()
    items = [files.item(index) for index in range(len(files))]
    network, history = train(
        lambda: build_network(factory, benchmark.num_classes, benchmark.network_arguments),
        torch.stack([image for image, _ in items]),
        torch.stack([label for _, label in items]),
        recipe or Recipe(),
        SEEDS[seed],
        device,
        progress_label=f"train {seed}",
    )
    save_checkpoint(network, directory / seed / "best.ckpt")
    return history[-1]
