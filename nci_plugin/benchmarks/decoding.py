"""The one decoding of images: a file, or an open image, to RGB with 8 bits a channel, or one line that says why not.

`Preprocessing` makes of that what a network takes.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.files import read_file

if TYPE_CHECKING:  # torch and torchvision cost 3 s: what passes no image does without
    from torch import Tensor
    from torchvision.transforms import Compose

T = TypeVar("T")

IMAGE_BYTES = 2**29
"""The largest image file that is read: three times the largest image that Pillow decodes, 179 million pixels."""

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Torchvision's InterpolationMode."""

SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose mode "I" (32 bits) is a greyscale image of 0..65535, in some versions of Pillow."""


PROGRAMS = ("EPS",)
"""Formats that Pillow hands to another program, Ghostscript, which runs what the file says."""


def read_image(path: Path, transform: Callable[[Image.Image], T], remedy: str, place: str = "") -> T:
    """What ``transform`` makes of the image in a file.

    Raises PluginError, which names ``place``, where the path stood, and ends with ``remedy``, if the file cannot be
    read (see `read_file`), decoded or transformed.
    """
    try:
        data = read_file(path, f"image{place}", IMAGE_BYTES, remedy)
    except FileNotFoundError:
        raise PluginError(f"image '{path}'{place}: there is no such file; {remedy}") from None
    return decoded(data, f"image '{path}'{place}", transform, remedy)


def decoded(data: bytes, what: str, transform: Callable[[Image.Image], T], remedy: str) -> T:
    """What ``transform`` makes of the image in the bytes of a file.

    Raises PluginError, which begins with ``what`` and ends with ``remedy``, if it cannot be decoded or transformed.
    """
    try:
        with whole_images, Image.open(io.BytesIO(data)) as image:
            if image.format in PROGRAMS:
                raise PluginError(f"{image.format} is a program, and is not run")
            return transform(image)
    except Exception as error:  # Pillow's decoders raise whatever their format's code runs into
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its text names the object that held the bytes
            reason = "it is of no format that Pillow knows" if data else "it is empty"
        raise PluginError(f"{what}: cannot be decoded ({reason}); {remedy}") from None


class CutOffImages:
    """While any thread is inside, images that are cut off are ``read``, or refused, whatever else was asked of Pillow.

    OpenOOD does when it is imported. Pillow's flag is one for all threads: the first sets it, the last puts it back.
    """

    def __init__(self, read: bool) -> None:
        self._read, self._lock, self._inside, self._before = read, Lock(), 0, False
        if hasattr(os, "register_at_fork"):  # a process that loads images may begin while a thread holds the lock
            lock = self._lock
            os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, self._read
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


whole_images = CutOffImages(read=False)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, as OpenOOD converts it (`convert`), but for greyscale of more than 8 bits.

    Of that ``convert`` makes white whatever is above 255. Here 16 bits become their high byte, as Pillow makes of
    16-bit colour. Raises PluginError on 32-bit and floating-point values, of which nobody says what is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        raise PluginError(f"its pixels are {kind}, whose white is not known: save it with 8 or 16 bits")
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """OpenOOD's test preprocessing: RGB, resize the shorter side, centre crop, scale to 0..1, normalise.

    ``pre_size`` and ``img_size`` in pixels, None = leave that step out (as OpenOOD does for ImageNet-C); the crop gives
    black edges to what is smaller than ``img_size``, as torchvision's does.
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
        check_choice(f"{where}: interpolation", self.interpolation, INTERPOLATIONS)
        rows = self.normalization
        if [len(row) for row in rows] != [3, 3] or not np.isfinite(rows).all() or min(rows[1]) <= 0:
            raise PluginError(
                f"{where}: normalization must be [[mean of R, G, B], [standard deviation > 0 of R, G, B]],"
                f" got {self.normalization!r}"
            )

    def warn_of_edges(self, where: str) -> None:
        """Warn where the crop is larger than what it is cut from: the sizes may have been taken for one another."""
        if self.pre_size is not None and self.img_size is not None and self.pre_size < self.img_size:
            warnings.warn(
                f"{where}: pre_size {self.pre_size} is below img_size {self.img_size}, so the crop puts black edges"
                " round every image, as torchvision's does; where the network's test does not, correct them",
                stacklevel=2,
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image to (3, H, W).

        Raises PluginError on one that has no known white (see `to_rgb`), or would be too large once resized.
        """
        short, long = sorted(image.size)
        if self.pre_size is not None and self.pre_size**2 * long > 2 * (Image.MAX_IMAGE_PIXELS or math.inf) * short:
            raise PluginError(f"its sides are 1 : {long / short:.0f}, too large an image once the shorter is resized")
        return self._transform(to_rgb(image))

    @cached_property
    def _transform(self) -> Compose:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        steps: list[Any] = []
        if self.pre_size is not None:
            steps.append(Resize(self.pre_size, interpolation=InterpolationMode(self.interpolation)))
        if self.img_size is not None:
            steps.append(CenterCrop(self.img_size))
        return Compose([*steps, ToTensor(), Normalize(*self.normalization)])


def needed(preprocessing: Preprocessing | None, what: str) -> Preprocessing:
    """The preprocessing; raises PluginError where there is none and ``what`` needs one."""
    if preprocessing is None:
        raise PluginError(
            f"{what} needs a preprocessing; pass preprocessing=Preprocessing(pre_size, img_size, normalization), the"
            " one of the network's test, or tensors"
        )
    return preprocessing
