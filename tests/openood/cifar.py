"""A checkout of OpenOOD whose code is linked and whose data is small: its CIFAR-10 benchmark with real image files."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import openood
import torch
from openood.evaluation_api.datasets import DATA_INFO, benchmarks_dict, dir_dict
from openood.networks import ResNet18_32x32
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.config import load_benchmark

BENCHMARK = "cifar10"
RUN = "cifar10_resnet18_32x32_base_e100_lr0.1_default"
LINKED = ("openood", "configs", "main.py", "scripts/eval_ood.py", "scripts/eval_ood_imagenet.py")
COUNTS = {"id/train": 60, "id/val": 10, "id/test": 14, "ood/val": 8}
OTHERS = 6
SIZE = 32


class Checkout:
    """Paths of one such checkout; ``seeds`` are its checkpoints s0, s1, ..."""

    def __init__(self, root: Path, seeds: int = 1) -> None:
        self.root, self.data, self.runs = root, root / "data", root / "results" / RUN
        root.mkdir(parents=True, exist_ok=True)
        original = Path(next(iter(openood.__path__))).parent
        (root / "scripts").mkdir()  # not a link: the scripts' data are in scripts/../data
        for name in LINKED:
            (root / name).symlink_to(original / name)
        generator = np.random.default_rng(0)
        for split, source in load_benchmark(BENCHMARK).with_data_root(self.data).splits.items():
            assert isinstance(source, ImageList)
            self._write(split, source, generator)
        for name in benchmarks_dict[BENCHMARK]:  # an empty directory would be downloaded
            (group,) = [group for group, names in dir_dict.items() if name in names]
            assert any((self.data / group / name).iterdir()), name
        for seed in range(seeds):
            path = self.runs / f"s{seed}" / "best.ckpt"
            path.parent.mkdir(parents=True)
            torch.save(network(seed).state_dict(), path)

    def _write(self, split: str, source: ImageList, generator: np.random.Generator) -> None:
        group, name = split.split("/")
        folder = {"id": BENCHMARK, "ood": "tin"}.get(group, name)
        lines = []
        for index in range(COUNTS.get(split, OTHERS)):
            is_id = group in ("id", "csid")
            label = index % DATA_INFO[BENCHMARK]["num_classes"] if is_id else -1
            file = Path(folder) / name / f"{index}.png"
            path = self.data / source.data_dir / file
            path.parent.mkdir(parents=True, exist_ok=True)
            patch(label, generator).save(path)
            lines.append(f"{file} {label}\n")
        source.path.parent.mkdir(parents=True, exist_ok=True)
        source.path.write_text("".join(lines), encoding="utf-8")


def patch(label: int, generator: np.random.Generator) -> Image.Image:
    """A patch of a photograph; of an ID class, in that class's colour."""
    photo = load_sample_image("flower.jpg" if label < 0 else "china.jpg")
    top, left = (generator.integers(0, length - SIZE) for length in photo.shape[:2])
    image = Image.fromarray(photo[top : top + SIZE, left : left + SIZE])
    if label < 0:
        return image
    colour = tuple(np.random.default_rng(label).integers(0, 255, 3).tolist())
    return Image.blend(image, Image.new("RGB", image.size, colour), 0.7)


def network(seed: int) -> nn.Module:
    """OpenOOD's ResNet-18 with random weights, in eval mode; its head has a row towards each class of `patch`."""
    return copy.deepcopy(_network(seed))


@cache
def _network(seed: int) -> nn.Module:
    num_classes, preprocessing = DATA_INFO[BENCHMARK]["num_classes"], load_benchmark(BENCHMARK).preprocessing
    assert preprocessing is not None
    generator = np.random.default_rng(seed)
    patches = [patch(label, generator) for label in range(num_classes) for _ in range(4)]
    images = torch.stack([preprocessing(each) for each in patches])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        net = ResNet18_32x32(num_classes=num_classes)
        for _ in range(4):  # of its batch statistics
            net(images)
        features = net.eval()(images, return_feature=True)[1]
        rows = features.view(num_classes, -1, net.feature_size).mean(1) - features.mean(0)
        net.fc.weight.copy_(rows / rows.norm(dim=1, keepdim=True))
        net.fc.bias.copy_(-net.fc.weight @ features.mean(0))
    return net
