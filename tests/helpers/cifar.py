"""OpenOOD's CIFAR-10 benchmark with real image files, in a checkout of its own."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from layout import aim, lay_out_code, lay_out_data, patch
from openood.evaluation_api.datasets import DATA_INFO
from openood.networks import ResNet18_32x32
from PIL import Image
from torch import nn

from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.config import load_benchmark

BENCHMARK = "cifar10"
RUN = "cifar10_resnet18_32x32_base_e100_lr0.1_default"
COUNTS = {"id/train": 60, "id/val": 10, "id/test": 14, "ood/val": 8}
OTHERS = 6
SIZE, TINT = 32, 0.7


class Checkout:
    """Paths of one such checkout; ``seeds`` are its checkpoints s0, s1, ..."""

    def __init__(self, root: Path, seeds: int = 1) -> None:
        self.root, self.data, self.runs = root, root / "data", root / "results" / RUN
        lay_out_code(root)
        lay_out_data(root, BENCHMARK, {"id": BENCHMARK, "ood": "tin"}, COUNTS, OTHERS, draw)
        for seed in range(seeds):
            path = self.runs / f"s{seed}" / "best.ckpt"
            path.parent.mkdir(parents=True)
            torch.save(network(seed).state_dict(), path)


def draw(split: str, index: int, generator: np.random.Generator) -> tuple[int, Image.Image]:
    label = index % DATA_INFO[BENCHMARK]["num_classes"] if Benchmark.is_id(split) else -1
    return label, patch(label, generator, SIZE, SIZE, TINT)


def network(seed: int) -> nn.Module:
    """OpenOOD's ResNet-18 with random weights, in eval mode; its head has a row towards each class of `patch`."""
    return copy.deepcopy(_network(seed))


@cache
def _network(seed: int) -> nn.Module:
    num_classes, preprocessing = DATA_INFO[BENCHMARK]["num_classes"], load_benchmark(BENCHMARK).preprocessing
    assert preprocessing is not None
    generator = np.random.default_rng(seed)
    labels = torch.arange(num_classes).repeat_interleave(4)
    images = torch.stack([preprocessing(patch(int(label), generator, SIZE, SIZE, TINT)) for label in labels])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        net = ResNet18_32x32(num_classes=num_classes)
        for _ in range(4):  # of its batch statistics
            net(images)
        aim(net.fc, net.eval()(images, return_feature=True)[1], labels)
    return net
