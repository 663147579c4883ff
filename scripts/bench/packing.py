"""Small images of a benchmark as a few files that travel to another machine: one for each split, lossless WebP.

    python scripts/bench/packing.py BENCHMARK --data-root DIR --packs OUT [--train N] [--tested N]

Takes the first so many lines of each image list; ``training.py`` reads the packs. A pack holds ``webp``, strips of 500
images one below the other, ``webp_off``, where each begins, ``shape`` (n, H, W, 3) and ``labels`` (n,), -1 = OOD. All
images must have one size.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from measuring import parser, publish
from PIL import Image

from nci_plugin.benchmarks.benchmark import CSID, TRAIN
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark

STRIP, MOST_BYTES = 500, 45 * 2**20
"""Images in a strip, and what a pack takes at most."""


def pack(source: ImageList, most: int, path: Path) -> int:
    """Write the first images of a list; returns their number."""
    lines = [line.rsplit(maxsplit=1) for line in source.path.read_text(encoding="utf-8").splitlines()[:most]]
    images = [np.asarray(Image.open(source.directory / name).convert("RGB")) for name, _ in lines]
    strips = []
    for start in range(0, len(images), STRIP):
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(images[start : start + STRIP])).save(buffer, "WEBP", lossless=True)
        strips.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, strips)])
    labels = np.array([int(label) for _, label in lines])
    shape = np.array([len(images), *images[0].shape])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, webp=np.concatenate(strips), webp_off=offsets, shape=shape, labels=labels)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path}: {path.stat().st_size / 2**20:.0f} MiB, at most {MOST_BYTES / 2**20:.0f}; take fewer")
    return len(images)


def unpack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, H, W, 3) uint8 and labels (n,) of a pack."""
    with np.load(path, allow_pickle=False) as arrays:
        shape, webp, at = tuple(map(int, arrays["shape"])), arrays["webp"], arrays["webp_off"]
        strips = [Image.open(io.BytesIO(webp[first:last].tobytes())) for first, last in zip(at[:-1], at[1:])]
        images = np.concatenate([np.asarray(strip.convert("RGB")) for strip in strips]).reshape(shape)
        return images, arrays["labels"].astype(np.int64)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("benchmark", metavar="BENCHMARK", help="a name or a YAML file")
    made.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="of its images (data)")
    made.add_argument("--packs", type=Path, required=True, metavar="OUT", help="where the packs go")
    made.add_argument("--train", type=int, default=25_000, metavar="N", help="training images at most (25000)")
    made.add_argument("--tested", type=int, default=3000, metavar="N", help="images of another split at most (3000)")
    options = made.parse_args(arguments)
    benchmark = load_benchmark(options.benchmark).with_csid([]).with_data_root(options.data_root)
    open_splits(benchmark)  # its checks of the lists
    report: dict[str, Any] = {}
    for name, source in benchmark.splits.items():
        if isinstance(source, ImageList) and not name.startswith(CSID):
            most = options.train if name == TRAIN else options.tested
            report[name] = pack(source, most, options.packs / f"{name.replace('/', '.')}.npz")
    publish({"images": report}, options.json)


if __name__ == "__main__":
    main()
