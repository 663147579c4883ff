"""Images in a folder: one sub-folder a class, as torchvision's ImageFolder, or any images at all (OOD)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import OOD_LABEL, ImageFiles, file_stamp
from nci_plugin.checks import PluginError, one_line, shown
from nci_plugin.progress import progress as shown_progress

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's, whose import costs 1.5 s."""

DEEPEST = 32
"""Sub-folders in one another; where there are more, a link leads back to a folder above it."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images: every file below it that has one of torchvision's image endings, by sorted path.

    In an ID split the sorted names of its sub-folders are the classes 0, 1, ..., as in torchvision's ImageFolder.
    """

    directory: Path
    preprocessing: Preprocessing

    def place(self, index: int) -> str:
        """Where an image is named, for a message: nowhere else."""
        return ""

    def classes(self) -> list[str]:
        """Names of the sub-folders, sorted."""
        return sorted(entry.name for entry in os.scandir(self.directory) if entry.is_dir())

    def read(self, num_classes: int | None, progress: bool = False) -> ImageFiles:
        """Look for the images; ``num_classes`` is None for OOD images, which have no labels.

        With ``progress`` it is shown how far that is where it takes long.
        Raises PluginError on a folder that cannot be read or holds no image, and on sub-folders that are not
        ``num_classes``, or whose order as numbers is another one.
        """
        try:
            if num_classes is None:
                names = list(self._names(""))
                labels = [OOD_LABEL] * len(names)
            else:
                names, labels = self._labelled(num_classes)
        except OSError as error:
            raise PluginError(f"folder '{self.directory}': {error.strerror}; pass a folder of images") from None
        if not names:
            raise PluginError(
                f"folder '{self.directory}': the split is empty; it needs at least one image"
                f" ({', '.join(IMG_EXTENSIONS)})"
            )
        stamps = []
        with shown_progress("open", "img", len(names), progress, delay=1) as bar:
            for index, name in enumerate(names):
                stamps.append(file_stamp(self, os.path.join(self.directory, name), index) or (0, 0))
                bar.update()
        return ImageFiles(self, tuple(names), torch.tensor(labels), np.array(stamps, np.int64))

    def _labelled(self, num_classes: int) -> tuple[list[str], list[int]]:
        classes = self.classes()
        remedy = "pass a Dataset of (image, label) if labels are given otherwise"
        if len(classes) != num_classes:
            raise PluginError(
                f"folder '{self.directory}': an ID split needs one sub-folder for each of {num_classes} classes, got"
                f" {len(classes)}, {shown(classes)}; {remedy}"
            )
        if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
            raise PluginError(
                f"folder '{self.directory}': sorted as texts, as ImageFolder does, its sub-folders are"
                f" {shown(classes)}, not the classes that they name; write all with as many digits, or {remedy}"
            )
        names, labels = [], []
        for label, folder in enumerate(classes):
            found = list(self._names(folder))
            if not found:
                raise PluginError(f"folder '{self.directory / folder}': holds no image; every class needs one")
            names += found
            labels += [label] * len(found)
        return names, labels

    def _names(self, below: str) -> Iterator[str]:
        """Paths of the images below a sub-folder, relative to the folder, in ImageFolder's order."""
        found = []
        for root, _, files in os.walk(self.directory / below, followlinks=True, onerror=_raise):
            relative = os.path.relpath(root, self.directory).replace(os.sep, "/")
            if relative.count("/") > DEEPEST:
                raise PluginError(f"folder '{self.directory}': deeper than {DEEPEST} folders; does a link lead back?")
            found.append((relative, [name for name in sorted(files) if name.lower().endswith(IMG_EXTENSIONS)]))
        for relative, names in sorted(found):
            yield from (name if relative == "." else f"{relative}/{name}" for name in names)


def _raise(error: OSError) -> None:
    raise error


def class_names(split: Any) -> list[str]:
    """The names of the sub-folders that a split is read from, or was; empty where nobody named the classes."""
    source = getattr(split, "source", split)
    return [one_line(name) for name in source.classes()] if isinstance(source, ImageFolder) else []
