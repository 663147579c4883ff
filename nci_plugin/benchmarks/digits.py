"""The benchmark ``digits``: built from images inside scikit-learn, so that nothing is downloaded.

Digits are the 1797 handwritten 8x8 digits of `sklearn.datasets.load_digits` (Alpaydin & Kaynak 1998), upsampled to
32x32 grey values 0..255. ID are the classes 0..5; near-OOD the classes 6, 7, 8; far-OOD patches of the photograph
``flower.jpg``; OOD validation the class 9 and patches of ``china.jpg``, which are in no test set. ``digits_c`` holds
the ID test digits under four corruptions of ImageNet-C. ``digits_lt`` is the same benchmark with a
long-tailed training set.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from nci_plugin.benchmarks.corruptions import CORRUPTIONS, corrupt
from nci_plugin.benchmarks.image_list import LIST_BYTES, OOD_LABEL
from nci_plugin.files import read_text, write_atomically
from nci_plugin.progress import progress

NUM_CLASSES = 6
NEAR_CLASSES = (6, 7, 8)
VALIDATION_CLASS = 9
SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}
CORRUPTION_SEVERITIES = (1, 3, 5)
SIZE = 32
SEED = 20260101

IMAGE_DIR = Path("images_classic")
LIST_DIR = Path("benchmark_imglist/digits")
LISTS = {
    "train": "train_digits.txt",
    "val": "val_digits.txt",
    "test": "test_digits.txt",
    "csid": "test_digits_c.txt",
    "ood_val": "val_digit9_china.txt",
    "near": "test_digits_unseen.txt",
    "far": "test_flower.txt",
}
"""File name of each split's list. The lists are written in this order."""

LONG_TAILED_LIST = "train_digits_lt.txt"
IMBALANCE = 20
"""Largest over smallest class of the long-tailed training list; class sizes fall exponentially (Cao et al. 2019)."""

Item = tuple[str, int, NDArray[np.uint8]]
"""Path under `IMAGE_DIR`, label and pixels of an image."""


def is_complete(data_root: Path) -> bool:
    """Whether ``data_root`` holds every list of the benchmark and every image that they name."""
    lists = [Path(data_root) / LIST_DIR / name for name in (*LISTS.values(), LONG_TAILED_LIST)]
    if not all(path.is_file() for path in lists):
        return False
    texts = (read_text(path, "image list", LIST_BYTES, "remove it") for path in lists)
    names = (line.rpartition(" ")[0] for text in texts for line in text.splitlines())
    return all((Path(data_root) / IMAGE_DIR / name).is_file() for name in names)


def write_digits(data_root: Path) -> bool:
    """Write the benchmark's PNG images and image lists under ``data_root``, as OpenOOD lays them; seconds, 6000 files.

    Does nothing if the benchmark is complete, and returns whether it had to. Two builds give the same pixels. Raises
    PluginError if a file cannot be written.
    """
    if is_complete(data_root):
        return False
    root = Path(data_root)
    splits = _splits()
    # The lists come last: a build that was interrupted lacks one, and is done again.
    with progress("write digits", "img", sum(map(len, splits.values()))) as bar:
        for items in splits.values():
            for name, _, pixels in items:
                write_atomically(root / IMAGE_DIR / name, _png(pixels), durable=False)
                bar.update()
    for split, items in splits.items():
        _write_list(root, LISTS[split], items)
    _write_list(root, LONG_TAILED_LIST, _long_tailed(splits["train"]))
    return True


def _write_list(root: Path, file_name: str, items: list[Item]) -> None:
    write_atomically(root / LIST_DIR / file_name, "".join(f"{name} {label}\n" for name, label, _ in items))


def _long_tailed(items: list[Item]) -> list[Item]:
    """The first n_0 IMBALANCE^(-k / (K-1)) items of each class k, n_0 the number of items of class 0."""
    by_class = [[item for item in items if item[1] == label] for label in range(NUM_CLASSES)]
    sizes = len(by_class[0]) * IMBALANCE ** (-np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    return [item for group, size in zip(by_class, np.rint(sizes).astype(int)) for item in group[:size]]


def _splits() -> dict[str, list[Item]]:
    """The images of each split, in the order of `LISTS`."""
    images, labels = _digits()

    def items(split: str, indices: NDArray[np.integer], label: int | None = None) -> list[Item]:
        return [
            (f"digits/{split}/{labels[i]}/{i:04d}.png", int(labels[i]) if label is None else label, images[i])
            for i in indices
        ]

    id_indices = _stratified(labels)
    near = np.flatnonzero(np.isin(labels, NEAR_CLASSES))
    validation = np.flatnonzero(labels == VALIDATION_CLASS)
    return {
        **{split: items(split, indices) for split, indices in id_indices.items()},
        "csid": list(_corrupted(images, labels, id_indices["test"])),
        "ood_val": items("ood_val", validation, OOD_LABEL) + _patches("china"),
        "near": items("unseen", near, OOD_LABEL),
        "far": _patches("flower"),
    }


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Digits (1797, 32, 32) and their labels 0..9."""
    data = load_digits()
    grey = np.rint(data.images * 255 / 16).astype(np.uint8)  # the values are 0..16
    upsampled = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in grey]
    return np.stack(upsampled), data.target


def _stratified(labels: NDArray[np.integer]) -> dict[str, NDArray[np.integer]]:
    """Indices of the ID splits: `SHARES` of each class, drawn with the benchmark's own seed."""
    generator = np.random.default_rng(SEED)
    parts: dict[str, list[NDArray[np.integer]]] = {split: [] for split in SHARES}
    for label in range(NUM_CLASSES):
        indices = generator.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(list(SHARES.values())) * len(indices)).astype(int)
        for split, part in zip(SHARES, np.split(indices, ends[:-1])):
            parts[split].append(np.sort(part))
    return {split: np.concatenate(chosen) for split, chosen in parts.items()}


def _corrupted(images: NDArray[np.uint8], labels: NDArray[np.integer], indices: NDArray[np.integer]) -> Iterator[Item]:
    generator = np.random.default_rng(SEED)
    for corruption in CORRUPTIONS:
        for severity in CORRUPTION_SEVERITIES:
            for i in indices:
                name = f"digits/digits_c/{corruption}/{severity}/{i:04d}.png"
                yield name, int(labels[i]), corrupt(images[i], corruption, severity, generator)


def _patches(photograph: str) -> list[Item]:
    """All whole 32x32 patches of a photograph (427, 640), side by side, in grey as the digits are."""
    image = np.asarray(Image.fromarray(load_sample_image(f"{photograph}.jpg")).convert("L"))
    return [
        (f"digits/{photograph}/{top:03d}_{left:03d}.png", OOD_LABEL, image[top : top + SIZE, left : left + SIZE])
        for top in range(0, image.shape[0] - SIZE + 1, SIZE)
        for left in range(0, image.shape[1] - SIZE + 1, SIZE)
    ]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
