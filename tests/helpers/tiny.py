"""A tiny benchmark of real image files in OpenOOD's layout, with a network file, checkpoints and YAML."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

CLASSES, SIZE = 3, 8
COUNTS = {"train": 12, "val": 6, "test": 8, "oodval": 6, "near": 6, "near2": 6, "far": 6, "csid": 6}
BATCH = 4
ID_SPLITS = ("train", "val", "test", "csid")

# Every forward pass adds its number of images to the file "passes" beside net.py. An image that is all white gives NaN
# features, one that is all black infinite ones. A file "interrupt_after" stops it after so many passes; a file "signal"
# of "rank passes number" sends that signal to that process of a run, after so many passes of it; a file "sleep" makes
# every pass take so many seconds longer.
NETWORK = """
import os
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
NOT_A_FACTORY = 3


class TinyNet(nn.Module):
    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(4 * width, num_classes)
        self.calls = 0

    def forward(self, x):
        with (HERE / "passes").open("a") as passes:
            passes.write(f"{len(x)}\\n")
        stop = HERE / "interrupt_after"
        if stop.exists() and len((HERE / "passes").read_text().split()) > int(stop.read_text()):
            raise KeyboardInterrupt
        self.calls += 1
        if (HERE / "sleep").exists():
            time.sleep(float((HERE / "sleep").read_text()))
        if (HERE / "signal").exists():
            rank, passes, number = (HERE / "signal").read_text().split()
            if os.environ.get("RANK", "0") == rank and self.calls > int(passes):
                os.kill(os.getpid(), int(number))
        h = self.pool(self.conv(x).relu()).flatten(1)
        mean = x.flatten(1).mean(1, keepdim=True)
        h = torch.where(mean > 0.999, torch.full_like(h, float("nan")), h)
        h = torch.where(mean < -0.999, torch.full_like(h, float("inf")), h)
        return self.fc(h)


class ReluAfterHead(TinyNet):
    def forward(self, x):
        return super().forward(x).relu()


def make(num_classes=3):
    return TinyNet(num_classes)


def wide(num_classes=3):
    return TinyNet(num_classes, width=8)


def relu_after_head(num_classes=3):
    return ReluAfterHead(num_classes)


def three_classes():
    return TinyNet(3)


def raises():
    raise ValueError("no such thing\\nsecond line")


def makes_a_string():
    return "network"
"""


class Tiny:
    """Paths of one tiny benchmark; ``config`` is what its YAML file holds and may be changed before `save_config`."""

    def __init__(self, root: Path, csid: bool = True, seeds: int = 1) -> None:
        self.root, self.data = root, root / "data"
        self.yaml, self.net = root / "tiny.yml", root / "code" / "net.py"
        self.output, self.checkpoint = root / "out", root / "tiny.ckpt"
        self.checkpoints = root / "checkpoints"
        for number, (split, count) in enumerate(COUNTS.items()):
            self._write_split(split, count, np.random.default_rng(number))
        self.net.parent.mkdir()
        self.net.write_text(NETWORK, encoding="utf-8")
        self.save_checkpoint(self.checkpoint, seed=0)
        for seed in range(seeds if seeds > 1 else 0):
            self.save_checkpoint(self.checkpoints / f"s{seed}" / "best.ckpt", seed)
        self.config = config(csid)
        self.save_config()

    def _write_split(self, split: str, count: int, generator: np.random.Generator) -> None:
        lines = []
        for index in range(count):
            label = index % CLASSES if split in ID_SPLITS else -1
            pixels = generator.integers(0, 120, (SIZE, SIZE, 3))
            if label >= 0:
                pixels[:, :, label] += 100
            self.write_image(self.image(split, index), pixels)
            lines.append(f"{split}/{index}.png {label}\n")
        self.list(split).parent.mkdir(parents=True, exist_ok=True)
        self.list(split).write_text("".join(lines), encoding="utf-8")

    @staticmethod
    def write_image(path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    def image(self, split: str, index: int) -> Path:
        return self.data / "images_classic" / split / f"{index}.png"

    def list(self, split: str) -> Path:
        return self.data / "benchmark_imglist" / "tiny" / f"{split}.txt"

    def save_config(self) -> None:
        self.yaml.write_text(yaml.safe_dump(self.config), encoding="utf-8")

    def save_checkpoint(self, path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(self.network().state_dict(), path)

    def network(self, factory: str = "make") -> torch.nn.Module:
        """A network of net.py with fresh weights."""
        spec = importlib.util.spec_from_file_location("tiny_net", self.net)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, factory)()

    def loaded(self) -> torch.nn.Module:
        """The network with the checkpoint's weights."""
        network = self.network()
        network.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        return network

    def eval(self, *detectors: str, **options: Any) -> list[str]:
        """Arguments of ``nci-ood eval`` on this benchmark; an option that is None is left out."""
        given = {
            "net": f"{self.net}:make",
            "ckpt_path": self.checkpoint,
            "data_root": self.data,
            "output": self.output,
            "device": "cpu",
            "batch_size": BATCH,
            "workers": 0,
            **options,
        }
        flags = [
            text
            for name, value in given.items()
            if value is not None
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        return ["eval", str(self.yaml), "--detectors", *(detectors or ("msp",)), *flags]

    def passes(self) -> list[int]:
        """Images of every forward pass since the last call."""
        file = self.net.parent / "passes"
        batches = [int(line) for line in file.read_text().split()] if file.exists() else []
        file.unlink(missing_ok=True)
        return batches


def config(csid: bool = True) -> dict[str, Any]:
    """The benchmark's YAML, as a new mapping."""

    def entry(split: str) -> dict[str, str]:
        return {"data_dir": "images_classic/", "imglist_path": f"benchmark_imglist/tiny/{split}.txt"}

    benchmark = {
        "name": "tiny",
        "num_classes": CLASSES,
        "preprocessing": {"pre_size": SIZE, "img_size": SIZE, "normalization": [[0.5] * 3, [0.5] * 3]},
        "id": {split: entry(split) for split in ("train", "val", "test")},
        "ood": {
            "val": entry("oodval"),
            "near": {"datasets": ["near", "near2"], "near": entry("near"), "near2": entry("near2")},
            "far": {"datasets": ["far"], "far": entry("far")},
        },
    }
    if csid:
        benchmark["csid"] = {"datasets": ["csid"], "csid": entry("csid")}
    return {"benchmark": copy.deepcopy(benchmark)}


def draw_nothing(results: Any, path: Path) -> None:
    """In the place of the figure, which costs as much as all the rest of a tiny run."""
    path.write_bytes(b"")


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file (its bytes) and directory (None) under ``root``, without the tiny network's own traces."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.name != "passes" and "__pycache__" not in path.parts
    }


def stored(output: Path) -> dict[str, bytes]:
    """The files below every ``features`` directory of a run, by path, without the digests of the images."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("features/**/*"))
        if path.is_file() and path.suffix != ".digests"
    }
