"""A checkout of OpenOOD with its real code and small data: crops of two photographs, in the places of its data sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openood
from openood.evaluation_api.datasets import benchmarks_dict, dir_dict
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.config import load_benchmark

LINKED = ("openood", "main.py", "scripts/eval_ood.py", "scripts/eval_ood_imagenet.py")

Draw = Callable[[str, int, np.random.Generator], tuple[int, Image.Image]]
"""Label, -1 of an OOD image, and image number so-and-so of a split."""


def lay_out_code(root: Path) -> None:
    """Links to OpenOOD's code; its YAML files are copied, since an installation writes beside them."""
    original = Path(next(iter(openood.__path__))).parent
    (root / "scripts").mkdir(parents=True)  # not a link: the scripts' data are in scripts/../data
    for name in LINKED:
        (root / name).symlink_to(original / name)
    shutil.copytree(original / "configs", root / "configs")


def lay_out_data(
    root: Path,
    benchmark: str,
    folders: Mapping[str, str],
    counts: Mapping[str, int],
    others: int,
    draw: Draw,
    suffix: str = ".png",
) -> None:
    """Lists and images of a benchmark, ``counts`` of each split, else ``others``.

    ``folders`` are the data sets, by group or split, whose directories are not named as the split is.
    """
    generator = np.random.default_rng(0)
    data = root / "data"
    for split, source in load_benchmark(benchmark).with_data_root(data).splits.items():
        assert isinstance(source, ImageList)
        group, name = split.split("/")
        lines = []
        for index in range(counts.get(split, others)):
            label, image = draw(split, index, generator)
            file = Path(folders.get(group, folders.get(name, name))) / name / f"{index}{suffix}"
            path = data / source.data_dir / file
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            lines.append(f"{file} {label}\n")
        source.path.parent.mkdir(parents=True, exist_ok=True)
        source.path.write_text("".join(lines), encoding="utf-8")
    for name in benchmarks_dict[benchmark]:  # an empty directory would be downloaded
        (group,) = [group for group, names in dir_dict.items() if name in names]
        assert any((data / group / name).iterdir()), name


def patch(label: int, generator: np.random.Generator, width: int, height: int, tint: float) -> Image.Image:
    """A patch of a photograph; of an ID class, with ``tint`` in 0..1 of that class's colour."""
    photo = load_sample_image("flower.jpg" if label < 0 else "china.jpg")
    top, left = (generator.integers(0, whole - part) for whole, part in zip(photo.shape, (height, width)))
    image = Image.fromarray(photo[top : top + height, left : left + width])
    if label < 0:
        return image
    colour = tuple(np.random.default_rng(label).integers(0, 255, 3).tolist())
    return Image.blend(image, Image.new("RGB", image.size, colour), tint)


def aim(head: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Give each class of ``labels`` (n,) a row of length 1 towards the mean of its ``features`` (n, P)."""
    for label in labels.unique():
        row = features[labels == label].mean(0) - features.mean(0)
        head.weight.data[label] = row / row.norm()
        head.bias.data[label] = -head.weight.data[label] @ features.mean(0)
