"""The one decoding of images: a file, or an open image, to RGB with 8 bits a channel, or one line that says why not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from nci_plugin.checks import PluginError
from nci_plugin.files import read_file

T = TypeVar("T")

IMAGE_BYTES = 2**29
"""The largest image file that is read: three times the largest image that Pillow decodes, 179 million pixels."""

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
