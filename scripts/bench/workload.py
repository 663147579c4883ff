"""Images on disk and a network, for the scripts that measure passes.

    python scripts/bench/workload.py --directory DIR [--workload NAME] [--train N] [--test N] [--width N]

digits  the built-in benchmark's real images, at most so many for training and for all other splits; the plugin's
        ResNet-18 for 32x32, its first stage ``--width`` channels wide (64 is OpenOOD's)
small   synthetic 32x32 PNG images of 10 classes; the same network
large   synthetic 256x256 JPEG images of 1000 classes, cut to 224x224; torchvision's ResNet-50
vit     the same images; torchvision's ViT-B/16

The weights are random, since neither the time of a pass nor the equality of two sides depends on them. The directory
also holds the benchmark's YAML file and a checkpoint; what is complete there is used again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measuring import parser, publish
from PIL import Image
from torch import nn
from tqdm import tqdm

from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.config import config_directory, load_benchmark
from nci_plugin.files import write_atomically
from nci_plugin.networks.checkpoints import load_checkpoint
from nci_plugin.networks.factory import build_network
from nci_plugin.training.train import save_checkpoint

RESNET18 = "nci_plugin.networks.resnet:ResNet18_32x32"
IMAGENET_NORMALIZATION = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
SHARES = {"id/val": 0.1, "ood/val": 0.1, "id/test": 0.2, "near/first": 0.2, "near/second": 0.2, "far/third": 0.2}
"""How ``--test`` synthetic images are shared by the splits that are not for training."""


@dataclass(frozen=True)
class Synthetic:
    """How synthetic images look and what passes them."""

    form: str
    size: int
    img_size: int
    num_classes: int
    network: str
    detail: int
    """Pixels of the random image that is enlarged: natural images compress, noise of single pixels does not."""


SYNTHETIC = {
    "small": Synthetic("PNG", 32, 32, 10, RESNET18, 8),
    "large": Synthetic("JPEG", 256, 224, 1000, "torchvision:resnet50", 32),
    "vit": Synthetic("JPEG", 256, 224, 1000, "torchvision:vit_b_16", 32),
}


@dataclass(frozen=True)
class Work:
    """A benchmark of image lists and a network, and the files that give the same to a command."""

    directory: Path
    benchmark: Benchmark
    network: nn.Module

    @property
    def yaml(self) -> Path:
        return self.directory / "benchmark.yml"

    @property
    def checkpoint(self) -> Path:
        return self.directory / "network.pt"


def add_options(options: argparse.ArgumentParser, device: bool = True) -> None:
    """The options that `opened` reads."""
    options.add_argument("--workload", choices=["digits", *SYNTHETIC], default="digits", help="images (digits)")
    options.add_argument("--train", type=int, metavar="N", help="training images (digits: all; others: 1000)")
    options.add_argument("--test", type=int, metavar="N", help="images of all other splits (digits: all; others: 1000)")
    options.add_argument("--width", type=int, default=16, metavar="N", help="channels of ResNet-18's first stage (16)")
    options.add_argument("--directory", type=Path, metavar="DIR", help="where the images are kept (nowhere)")
    if device:
        options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
        options.add_argument("--batch-size", type=int, default=200, metavar="N", help="images a batch (200)")
        options.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes (0)")


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Work]:
    """The images and the network that the options ask for, in ``--directory`` or in one that goes at the end."""
    with tempfile.TemporaryDirectory() as temporary:
        yield prepare(options, options.directory or Path(temporary))


def prepare(options: argparse.Namespace, directory: Path) -> Work:
    asked = {name: getattr(options, name) for name in ("workload", "train", "test", "width", "seed")}
    place = directory / "-".join(f"{each if each is not None else 'all'}" for each in asked.values())
    done = place / "workload.json"
    if not done.is_file():  # written last
        if options.workload == "digits":
            raw = _write_real(place, options)
        else:
            raw = _write_synthetic(place, options, SYNTHETIC[options.workload])
        write_atomically(place / "benchmark.yml", yaml.safe_dump({"benchmark": raw}, sort_keys=False))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            made = load_benchmark(str(place / "benchmark.yml"))
            save_checkpoint(build_network(*_network(made)), place / "network.pt")
        write_atomically(done, json.dumps(asked))
    benchmark = load_benchmark(str(place / "benchmark.yml")).with_data_root(place)
    network = build_network(*_network(benchmark))
    load_checkpoint(network, place / "network.pt")
    return Work(place, benchmark, network.eval())


def _network(benchmark: Benchmark) -> tuple[str, int, Mapping[str, Any]]:
    return str(benchmark.network), benchmark.num_classes, benchmark.network_arguments


# -------------------------------------------------------------------- real images


def _write_real(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    write_digits(place)
    config = yaml.safe_load((config_directory() / "benchmarks" / "digits.yml").read_text(encoding="utf-8"))["benchmark"]
    for name in ("built_in", "checkpoints", "csid"):
        del config[name]
    config["network"]["arguments"]["width"] = options.width
    benchmark = load_benchmark("digits").with_csid([]).with_data_root(place)
    lists = {name: source for name, source in benchmark.splits.items() if isinstance(source, ImageList)}
    shorten({TRAIN: lists.pop(TRAIN)}, options.train)
    shorten(lists, options.test)
    return {**config, "name": "digits_bench"}


def shorten(lists: Mapping[str, ImageList], most: int | None) -> None:
    """Leave ``most`` lines of image lists together (None = all), each list's share spread over it."""
    lines = {name: source.path.read_text().splitlines(keepends=True) for name, source in lists.items()}
    share = 1.0 if most is None else min(1.0, most / sum(map(len, lines.values())))
    for name, source in lists.items():
        count = max(1, round(share * len(lines[name])))
        step = len(lines[name]) / count
        write_atomically(source.path, "".join(lines[name][int(index * step)] for index in range(count)))


# -------------------------------------------------------------------- synthetic images


def _write_synthetic(place: Path, options: argparse.Namespace, kind: Synthetic) -> dict[str, Any]:
    rest = 1000 if options.test is None else options.test
    counts = {TRAIN: 1000 if options.train is None else options.train}
    counts.update({name: max(1, round(share * rest)) for name, share in SHARES.items()})
    names, work = {}, []
    for name, count in counts.items():
        labels = [index % kind.num_classes if Benchmark.is_id(name) else -1 for index in range(count)]
        # A thousand a directory, as file systems like it.
        names[name] = [f"{name}/{index // 1000}/{index}.{kind.form.lower()}" for index in range(count)]
        lines = (f"{path} {label}\n" for path, label in zip(names[name], labels))
        write_atomically(place / "lists" / f"{name}.txt", "".join(lines))
        for start in range(0, count, 1000):
            work.append((place / "images", names[name][start : start + 1000], kind, [options.seed, len(work)]))
    total = sum(counts.values())
    # Threads: Pillow's encoders leave the interpreter to the others.
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=total, unit="img", desc="write", disable=None) as bar:
        for count in pool.map(_write_images, work):
            bar.update(count)

    def entry(name: str) -> dict[str, str]:
        return {"data_dir": "images/", "imglist_path": f"lists/{name}.txt"}

    arguments = {"width": options.width} if kind.network == RESNET18 else {}
    return {
        "name": f"{options.workload}_bench",
        "num_classes": kind.num_classes,
        "network": {"factory": kind.network, "arguments": arguments},
        "preprocessing": {
            "pre_size": kind.size,
            "img_size": kind.img_size,
            "normalization": IMAGENET_NORMALIZATION,
        },
        "id": {name: entry(f"id/{name}") for name in ("train", "val", "test")},
        "ood": {
            "val": entry("ood/val"),
            "near": {"datasets": ["first", "second"], "first": entry("near/first"), "second": entry("near/second")},
            "far": {"datasets": ["third"], "third": entry("far/third")},
        },
    }


def _write_images(task: tuple[Path, list[str], Synthetic, list[int]]) -> int:
    """Random blots, enlarged, with a little noise: files of about the size of photographs of as many pixels."""
    root, names, kind, seed = task
    generator = np.random.default_rng(seed)
    shape = (kind.size, kind.size, 3)
    for name in names:
        blots = generator.integers(0, 256, (kind.detail, kind.detail, 3), dtype=np.uint8)
        enlarged = Image.fromarray(blots).resize(shape[:2], Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(enlarged) + generator.integers(-4, 5, shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind.form)
        write_atomically(root / name, buffer.getvalue(), durable=False)
    return len(names)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made, device=False)
    options = made.parse_args(arguments)
    if options.directory is None:
        made.error("--directory: say where the images go")
    work = prepare(options, options.directory)
    lists = {name: source for name, source in work.benchmark.splits.items() if isinstance(source, ImageList)}
    images = {name: len(source.read()) for name, source in lists.items()}
    publish({"images": images, "directory": str(work.directory)}, options.json)


if __name__ == "__main__":
    main()
