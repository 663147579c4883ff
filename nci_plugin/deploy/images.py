"""The gate of a service's images: loaders, Datasets, folders, lists and tensors, each read in order and unchanged.

A training loader that augments, repeats or leaves out images would move the means that a detector is fitted on, and
nothing would show it. So what comes is looked at before it is used, and refused in one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from nci_plugin.benchmarks.decoding import Preprocessing, needed
from nci_plugin.benchmarks.folder import ImageFolder
from nci_plugin.benchmarks.image_list import ImageFiles, ImageList
from nci_plugin.benchmarks.opening import class_to_idx
from nci_plugin.benchmarks.samples import Samples, check_repeats, image_and_label, open_samples
from nci_plugin.checks import PluginError, RowError, errors_begin, one_line, shown
from nci_plugin.deploy.overlap import Digested, check_once
from nci_plugin.rows import as_numbers, check_float_images, id_labels

REPEATED = 32
"""Training samples that are fetched twice: a flip of half of the images goes unseen in one of four thousand million."""

TEST_PREPROCESSING = "pass the data with the test preprocessing, as a Dataset or a loader of all its images"


@dataclass(frozen=True)
class LabelledImages:
    """A split, opened: item i of ``split`` is (image, label); ``class_names`` are empty where nobody says them."""

    split: Dataset | ImageFiles
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.split)  # type: ignore[arg-type]  # a map-style Dataset has a length


def open_labelled(what: str, source: Any, num_classes: int, preprocessing: Preprocessing | None) -> LabelledImages:
    """The ID images of a DataLoader, Dataset, list, ImageFolder directory or `ImageList`, with a label each.

    Raises PluginError, which begins with ``what``, on data that augments or drops samples, that may never end, and as
    `open_samples` does.
    """
    with errors_begin(what):
        if isinstance(source, (str, Path)):
            folder = ImageFolder(directory(source), needed(preprocessing, f"the folder '{source}'"))
            return LabelledImages(folder.read(num_classes), tuple(map(one_line, folder.classes())))
        if isinstance(source, ImageList):
            files = source.read()
            id_labels(f"image list '{source.path}'", files.labels, len(files), num_classes, 1, "line")
            return LabelledImages(files, ())
        _check_complete(source)
        samples = Digested(open_samples(source, num_classes, preprocessing))
        check_once(samples)
        _check_floats(samples)
        check_repeats(samples, REPEATED)
    return LabelledImages(samples, _class_names(source, num_classes))


def first_images(what: str, source: Any, preprocessing: Preprocessing | None, count: int) -> Tensor:
    """The first images (n, ...) of a split, on which the network's head is found; raises as `open_labelled`."""
    with errors_begin(what):
        if not isinstance(source, (str, Path, ImageList)):
            _check_complete(source)
        return next(batches(source, preprocessing, count))


def directory(path: str | Path) -> Path:
    """A path that is a directory; raises PluginError if it is none."""
    if not os.path.isdir(path):
        raise PluginError(f"'{path}' {'is no folder' if os.path.exists(path) else 'is not there'}; pass a folder")
    return Path(path)


def _check_complete(source: Any) -> None:
    """Raise PluginError on what may not give each of its images once: streams, and loaders that leave some out."""
    check_ends(source)
    if isinstance(source, DataLoader):
        if source.drop_last:
            raise PluginError(f"the loader has drop_last=True and leaves images out; {TEST_PREPROCESSING}")
        try:
            seen, there = len(source.sampler), len(source.dataset)  # type: ignore[arg-type]  # most have a length
        except Exception:  # of the user's code, or without: said where it is opened
            return
        if seen != there:
            raise PluginError(
                f"the loader's {type(source.sampler).__name__} gives {seen} of the {there} images of its data set;"
                f" {TEST_PREPROCESSING}: a Subset, where only some are meant"
            )


def check_ends(source: Any) -> None:
    """Raise PluginError on a stream, which may never end: one that does can be a list."""
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(dataset, (IterableDataset, Iterator)) or (
        isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__")
    ):
        raise PluginError(
            f"it is a stream ({type(dataset).__name__}) and may never end; {TEST_PREPROCESSING}, with a length"
        )


def _check_floats(samples: Any) -> None:
    for index in range(min(REPEATED, len(samples))):
        item = samples[index]
        if isinstance(item, PluginError):
            raise item
        check_float_images(f"image {index}", item[0])


def _class_names(source: Any, num_classes: int) -> tuple[str, ...]:
    """The names of a torchvision data set's classes, by index."""
    names = {index: name for name, index in class_to_idx(source).items()}
    if set(names) != {*range(num_classes)}:
        return ()
    return tuple(one_line(str(names[index])) for index in range(num_classes))


def agreed_names(labelled: Iterable[LabelledImages], stated: Any, num_classes: int) -> tuple[str, ...]:
    """The names of the classes, as stated, else as the data sets have them.

    Raises PluginError where those of the data sets differ, and where the stated ones are theirs in another order.
    """
    one, *others = list(dict.fromkeys(each.class_names for each in labelled if each.class_names)) or [()]
    for other in others:
        name = next(iter({*one} ^ {*other}), "their order")
        raise PluginError(
            f"class names: those of two sets of images differ, {name!r} is in one alone; name the classes of all alike"
        )
    if stated is None:
        return one
    names = check_class_names(stated, num_classes)
    if names != one and {*names} == {*one}:
        label = next(label for label, name in enumerate(one) if names[label] != name)
        raise PluginError(
            f"class_names: are those of the images in another order: class {label} is {one[label]!r} there, got"
            f" {names[label]!r}; leave them out, or name the classes in the order of their labels"
        )
    return names


def check_class_names(names: Any, num_classes: int) -> tuple[str, ...]:
    """Names of the classes, one each; raises PluginError on another number of them."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise PluginError(
            f"class_names: must be a list of {num_classes} texts, got {shown(names)}; name each class once"
        )
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise PluginError(
            f"class_names: must be {num_classes} different names, one for each class of the network, got {len(names)}"
            f" ({len(set(names))} different)"
        )
    return tuple(one_line(name) for name in names)


# -------------------------------------------------------------------- images without labels


def open_to_score(source: Any, preprocessing: Preprocessing | None) -> Tensor | Samples | ImageFiles:
    """A tensor of images as it is, else as `open_unlabelled`, but that of a directory the paths in it are sorted."""
    if isinstance(source, Tensor):
        return as_numbers("images", source, source.device)
    samples = open_unlabelled(source, preprocessing)
    if isinstance(samples, ImageFiles) and isinstance(samples.source, ImageFolder):
        order = sorted(range(len(samples)), key=samples.names.__getitem__)
        names = [samples.names[index] for index in order]
        return ImageFiles(samples.source, names, samples.labels[order], samples.stamps[order])
    return samples


def files_of(samples: Tensor | Samples | ImageFiles) -> tuple[str, ...]:
    """The paths of images that are files, in order; none where one of them is something else."""
    if isinstance(samples, ImageFiles):
        return tuple(os.path.join(samples.source.directory, name) for name in samples.names)
    source = samples.source if isinstance(samples, Samples) else ()
    paths = [image_and_label(item)[0] for item in source] if isinstance(source, (list, tuple)) else []
    return tuple(map(os.fspath, paths)) if all(isinstance(path, (str, os.PathLike)) for path in paths) else ()


def batches(source: Any, preprocessing: Preprocessing | None, batch_size: int) -> Iterator[Tensor]:
    """Images to be scored, in order, as batches (n, ...): a tensor of them, or whatever `open_samples` reads.

    A single path or PIL image is one image, a directory all images in it, by sorted path. Raises PluginError on what
    cannot be read, naming its place.
    """
    yield from batches_of(open_to_score(source, preprocessing), batch_size)


def batches_of(samples: Tensor | Samples | ImageFiles, batch_size: int) -> Iterator[Tensor]:
    """As `batches`, of what was opened."""
    if isinstance(samples, Tensor):
        if not samples.ndim:
            raise PluginError("images: must be a batch of images (n, ...), got a single number")
        yield from samples.split(batch_size)
        return
    for start in range(0, len(samples), batch_size):
        batch: list[Tensor] = []
        for index in range(start, min(start + batch_size, len(samples))):
            item = samples[index]
            if isinstance(item, PluginError):
                raise item
            batch.append(item[0])
        yield stacked(batch)


def open_unlabelled(source: Any, preprocessing: Preprocessing | None) -> Samples | ImageFiles:
    """What `batches` reads: item i is an image with a label that nobody asks for, or the reason why there is none."""
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return ImageFolder(Path(source), needed(preprocessing, f"the folder '{source}'")).read(None)
    if isinstance(source, ImageList):
        return source.read()
    if isinstance(source, (str, os.PathLike, Image.Image)):
        source = [source]
    if isinstance(source, Tensor):  # whatever shape the model's images have
        source = list(as_numbers("images", source, source.device)) if source.ndim else source
    check_ends(source)
    return open_samples(source, None, preprocessing)


def stacked(images: list[Tensor]) -> Tensor:
    """Images of one shape as a batch; raises RowError where shapes differ."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise RowError(
            f"images: must have one size after preprocessing, got {', '.join(map(str, sorted(shapes)))}; set pre_size"
            " and img_size"
        )
    return torch.stack(images)
