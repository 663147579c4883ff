"""Images named by OpenOOD's image lists, decoded and preprocessed once each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.files import read_text

OOD_LABEL = -1
LARGEST_LIST = 2**30
"""Bytes: the list of ImageNet-21k's 14 million images has half of it."""

LABEL = re.compile(r"[+-]?\d{1,18}", re.ASCII)


@dataclass(frozen=True)
class Preprocessing:
    """OpenOOD's test preprocessing: RGB, resize the shorter side, centre crop, scale to 0..1, normalise.

    ``pre_size`` and ``img_size`` in pixels, None = leave that step out (as OpenOOD does for ImageNet-C);
    ``normalization`` is ((mean of R, G, B), (standard deviation of R, G, B)).
    """

    pre_size: int | None
    img_size: int | None
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    interpolation: str = "bilinear"

    def check(self, where: str) -> None:
        """Raise PluginError on a value that cannot be used; ``where`` names the place in the message."""
        for name in ("pre_size", "img_size"):
            if getattr(self, name) is not None:
                check_number(f"{where}: {name}", getattr(self, name), above=0, whole=True)
        check_choice(f"{where}: interpolation", self.interpolation, [mode.value for mode in InterpolationMode])
        rows = self.normalization
        if [len(row) for row in rows] != [3, 3] or not np.isfinite(rows).all() or min(rows[1]) <= 0:
            raise PluginError(
                f"{where}: normalization must be [[mean of R, G, B], [standard deviation > 0 of R, G, B]],"
                f" got {self.normalization!r}"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image to (3, H, W)."""
        return self._transform(image.convert("RGB"))

    @cached_property
    def _transform(self) -> Compose:
        steps: list[Any] = []
        if self.pre_size is not None:
            steps.append(Resize(self.pre_size, interpolation=InterpolationMode(self.interpolation)))
        if self.img_size is not None:
            steps.append(CenterCrop(self.img_size))
        return Compose([*steps, ToTensor(), Normalize(*self.normalization)])


class MissingFiles(PluginError):
    """An image list, or images that it names, are not there; ``summary`` says so in a few words."""

    def __init__(self, message: str, summary: str) -> None:
        super().__init__(message)
        self.summary = summary


@dataclass(frozen=True)
class ImageList:
    """A file of lines ``path label``; paths are relative to ``data_dir``, label -1 means OOD.

    ``imglist_path`` and ``data_dir`` are relative to ``data_root``, as in OpenOOD.
    """

    imglist_path: str
    data_dir: str
    preprocessing: Preprocessing
    data_root: Path = Path("data")

    @property
    def path(self) -> Path:
        return self.data_root / self.imglist_path

    def read(self) -> ImageFiles:
        """Parse the list and look at every file.

        Raises PluginError on the first line that cannot be used, MissingFiles if the list or images are not there.
        """
        try:
            remedy = "lay the benchmark's lists under the data root or pass --data-root"
            text = read_text(self.path, "image list", LARGEST_LIST, remedy)
        except (FileNotFoundError, NotADirectoryError) as error:
            message = f"image list '{self.path}': {error.strerror}; {remedy}"
            raise MissingFiles(message, f"the list {self.imglist_path}") from None
        lines = text.removesuffix("\n").split("\n") if text else []  # splitlines would also split names at U+2028
        root = self.data_root / self.data_dir
        names, labels, stamps = [], [], []
        missing: list[str] = []
        for number, line in enumerate(lines, start=1):
            where = f"image list '{self.path}' line {number}"
            name, _, label = line.strip().rpartition(" ")
            if not name:
                raise PluginError(f"{where}: expected 'path label', got {line!r}; correct the line")
            if not LABEL.fullmatch(label):
                raise PluginError(f"{where}: the label must be a small whole number, got {label!r}; correct the line")
            labels.append(int(label))
            if name.startswith("/") or ".." in name.split("/"):
                raise PluginError(f"{where}: the path must stay inside '{root}', got '{name}'; correct the line")
            try:
                stat = os.stat(os.path.join(root, name))  # a Path object for each of a million lines takes seconds
                stamps.append((stat.st_size, stat.st_mtime_ns))
            except (OSError, ValueError):  # a name that no file can have
                missing.append(name)
            names.append(name)
        if not names:
            raise PluginError(f"image list '{self.path}': the split is empty; it needs at least one 'path label' line")
        if missing:
            raise MissingFiles(
                f"image list '{self.path}': {len(missing)} of {len(names)} images are missing under '{root}', first"
                f" '{missing[0]}'; put the images there or pass --data-root",
                f"{len(missing)} of {len(names)} images, first {self.data_dir}{missing[0]}",
            )
        return ImageFiles(self, tuple(names), torch.tensor(labels), tuple(stamps))


class ImageFiles(Dataset):
    """The images of a list that was read: item i is (image (3, H, W), label).

    An image that cannot be decoded comes as a PluginError instead of an item, so that the error of a worker process
    reaches the user as one line.
    """

    def __init__(
        self, source: ImageList, names: Sequence[str], labels: Tensor, stamps: Sequence[tuple[int, int]]
    ) -> None:
        self.source, self.names, self.labels, self.stamps = source, names, labels, stamps

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | PluginError:
        try:
            return self.item(index)
        except PluginError as error:
            return error

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and label; raises PluginError naming the file and its line if it cannot be decoded."""
        path = self.source.data_root / self.source.data_dir / self.names[index]
        try:
            with Image.open(path) as image:
                return self.source.preprocessing(image), self.labels[index]
        except Exception as error:  # Pillow's decoders raise whatever their format's code runs into
            raise PluginError(
                f"image '{path}' (line {index + 1} of '{self.source.path}'): cannot be decoded"
                f" ({str(error) or type(error).__name__}); replace the file"
            ) from None

    @property
    def content(self) -> str:
        """Preprocessing, names, labels and file sizes: the same after a copy to another place."""
        sizes = [size for size, _ in self.stamps]
        return json.dumps([repr(self.source.preprocessing), self.names, self.labels.tolist(), sizes])

    @property
    def fingerprint(self) -> str:
        """`content` and modification times. An image rewritten within its size and time is not noticed."""
        return json.dumps([self.content, [modified for _, modified in self.stamps]])
