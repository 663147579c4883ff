"""Splits that the caller holds: datasets, loaders, lists and streams of samples, each read by one gate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from nci_plugin.benchmarks.decoding import Preprocessing, needed, read_image
from nci_plugin.benchmarks.image_list import OOD_LABEL
from nci_plugin.checks import PluginError, errors_begin, shown
from nci_plugin.rows import as_numbers, check_float_images, id_labels

IMAGE_KEYS = ("data", "pixel_values", "image", "img")
LABEL_KEYS = ("label", "labels", "target")
"""What the image and the label of a sample, or of a batch, are called where it is a mapping; the first one counts."""

REPEATED = 8
"""So many samples of an ID split are fetched twice, to see that they stay the same."""

HELD_BYTES = 4 * 2**30
"""The largest stream of images that is held in memory."""


def image_and_label(sample: Any) -> tuple[Any, Any]:
    """Image and label of a sample, or images and labels of a batch; the label is None where there is none.

    A mapping has them under one of `IMAGE_KEYS` and of `LABEL_KEYS`, a tuple or a list as its first and second item;
    anything else is the image. Raises PluginError on a mapping without an image and on an empty tuple.
    """
    if isinstance(sample, Mapping):
        image = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if image is None:
            raise PluginError(
                f"a mapping must have its image under {', '.join(IMAGE_KEYS)}, got {shown(list(sample))}; rename a key"
            )
        return image, next((sample[key] for key in LABEL_KEYS if key in sample), None)
    if isinstance(sample, (tuple, list)):
        if not sample:
            raise PluginError("a sample must be an image, alone or with its label, got an empty one")
        return sample[0], sample[1] if len(sample) > 1 else None
    return sample, None


def images_and_labels(what: str, batch: Any) -> tuple[Tensor, Any]:
    """Images (n, ...) of a loader's batch in float32, and its labels as they came (see `id_labels`).

    Raises PluginError, which begins with ``what``, unless it has both, and on images of whole numbers.
    """
    with errors_begin(what):
        images, labels = image_and_label(batch)
    if not _is_array(images) or not images.ndim or labels is None:
        came = "no labels" if labels is None else f"images that are {type(images).__name__}"
        raise PluginError(f"{what}: must be a tensor of images and their labels, got {came}")
    images = torch.as_tensor(images)
    check_float_images(what, images)
    return images.float(), labels


class Samples(Dataset):
    """Samples of anything with a length and indices: item i is (image, label), ready for the network.

    A sample is as in `image_and_label`. An image is a tensor or array that is preprocessed, or a path or PIL image,
    which ``preprocessing`` takes. The labels of OOD samples, for which ``num_classes`` is None, are not looked at: all
    become -1. What cannot be read comes as a PluginError instead of an item, so that the error of a worker process
    reaches the user as one line.
    """

    def __init__(self, source: Any, num_classes: int | None, preprocessing: Preprocessing | None) -> None:
        self.source, self.num_classes, self.preprocessing = source, num_classes, preprocessing

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | PluginError:
        try:
            return self.item(self.source[index], index)
        except PluginError as error:
            return PluginError(f"image {index}: {error}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a Dataset of the user's raises what it likes, SystemExit too
            return PluginError(f"image {index}: cannot be read ({type(error).__name__}: {error}); correct the dataset")

    def item(self, sample: Any, index: int) -> tuple[Tensor, int]:
        """Image and label of a sample; raises PluginError if it has none that can be used."""
        image, label = image_and_label(sample)
        return self._image(image), OOD_LABEL if self.num_classes is None else self._label(label, index)

    def _image(self, image: Any) -> Tensor:
        if _is_array(image):
            return as_numbers("its pixels", image, image.device if isinstance(image, Tensor) else "cpu")
        if isinstance(image, Image.Image):
            return needed(self.preprocessing, "a PIL image")(image)
        if isinstance(image, (str, os.PathLike)):
            preprocessing = needed(self.preprocessing, f"the path {shown(os.fspath(image))}")
            return read_image(image, preprocessing, "replace the file")  # type: ignore[arg-type]  # a str does
        raise PluginError(f"must be a tensor, an array, a PIL image or a path, got {type(image).__name__}")

    def _label(self, label: Any, index: int) -> int:
        assert self.num_classes is not None
        if label is None:
            raise PluginError("has no label, and an ID image needs one; pass (image, label)")
        plain = type(label) is int or isinstance(label, np.integer)
        if plain or (isinstance(label, Tensor) and label.ndim == 0 and label.dtype == torch.int64):
            whole = int(label)  # the gate takes ten times as long, which counts in a million labels
            if 0 <= whole < self.num_classes:
                return whole
        return int(id_labels("its label", [label], 1, self.num_classes, index, "image"))


def open_samples(source: Any, num_classes: int | None, preprocessing: Preprocessing | None) -> Samples:
    """The samples of a Dataset, a DataLoader, a list or array of images, or a stream.

    Of a DataLoader its dataset is read in order, each sample through its ``collate_fn``; batches, shuffling and
    ``drop_last`` do not count, and a SubsetRandomSampler selects. A stream (an IterableDataset, a generator) is read
    once, here, and held in memory. Raises PluginError on anything else, and on a first sample that cannot be used.
    """
    once = isinstance(source, Iterator)
    if isinstance(source, DataLoader):
        source = _of_loader(source)
    if isinstance(source, tuple) and len(source) == 2 and all(_is_array(each) for each in source):
        _check_images(source[0])
        if source[1].ndim == 0 or len(source[1]) != len(source[0]):
            labels = tuple(source[1].shape)
            raise PluginError(f"{len(source[0])} images, labels of shape {labels}; pass one each")
        source = StackDataset(*source)
    elif _is_array(source):
        _check_images(source)
    elif isinstance(source, (Mapping, bytes, bytearray)):
        raise PluginError(f"must be a Dataset or a list of images, got {type(source).__name__}")
    elif isinstance(source, IterableDataset) or not hasattr(source, "__getitem__"):
        source = _held(source, Samples([], num_classes, preprocessing))
    try:
        rows = len(source)
    except TypeError:
        raise PluginError(f"must have a length, got {type(source).__name__} without; give it __len__") from None
    except Exception as error:  # of the user's code
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"its length cannot be read ({reason}); correct the dataset's __len__") from None
    if not rows:
        again = "; an iterator can be read once, pass a list or a Dataset" if once else ""
        raise PluginError(f"the split is empty; it needs at least one image{again}")
    samples = Samples(source, num_classes, preprocessing)
    if isinstance(first := samples[0], PluginError):
        raise first
    if num_classes is not None:
        check_repeats(samples, REPEATED)
    return samples


def check_repeats(samples: Samples, count: int) -> None:
    """Raise PluginError where one of the first ``count`` samples is another one when it is fetched again."""
    for index in range(min(count, len(samples))):
        before, after = samples[index], samples[index]
        if isinstance(before, PluginError) or isinstance(after, PluginError):
            return  # said in the pass, with its place
        if not (torch.equal(before[0], after[0]) and before[1] == after[1]):
            raise PluginError(
                f"image {index} is another one when it is fetched again: the dataset draws random numbers; pass it with"
                " the test preprocessing, without augmentation"
            )


def _is_array(source: Any) -> bool:
    return isinstance(source, (Tensor, np.ndarray))


def _check_images(images: Any) -> None:
    """Raise PluginError unless an array is surely one of preprocessed images."""
    if images.ndim < 4:
        raise PluginError(
            f"an array of shape {tuple(images.shape)} may be images or features; pass Features(features, labels), or a"
            " TensorDataset of the network's inputs"
        )
    if "float" not in str(images.dtype):
        raise PluginError(
            f"an array of images must hold preprocessed floats (n, 3, H, W), got {images.dtype}; scale and normalise it"
        )


class Collated:
    """Samples of a loader's dataset, each as a batch of one from the loader's ``collate_fn``."""

    def __init__(self, source: Any, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.source, self.collate_fn = source, collate_fn

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.of(self.source[index])

    def __iter__(self) -> Any:
        return map(self.of, self.source)

    def check(self) -> None:
        """Raise PluginError where an image is another one in the company of others: mixed, or normalised by batch."""
        try:
            samples = [self.source[index] for index in range(2)]
            alone = torch.stack([torch.as_tensor(self.of(sample)[0]) for sample in samples])
            together = torch.as_tensor(image_and_label(self.collate_fn(samples))[0])
        except Exception:  # of the user's code, or of one image alone: said where it is read
            return
        if together.shape == alone.shape and not torch.allclose(together, alone, 1e-3, 1e-3, equal_nan=True):
            raise PluginError(
                "the loader's collate_fn makes another image of a sample that others are with (MixUp, or statistics of"
                " the batch); pass its dataset, or a loader that does not"
            )

    def of(self, sample: Any) -> Any:
        images, labels = image_and_label(self.collate_fn([sample]))
        if len(images) != 1:
            raise PluginError(f"the loader's collate_fn made {len(images)} images of one; pass its dataset")
        return images[0], None if labels is None else labels[0]


def _of_loader(loader: DataLoader) -> Any:
    """What a loader reads, in order; raises PluginError where its sampler may repeat or leave out samples."""
    source: Any = loader.dataset
    stream = isinstance(source, IterableDataset)
    if loader.batch_size is None or (not stream and not is_plain(loader)):
        raise PluginError(
            f"a DataLoader with {type(loader.sampler).__name__} and {type(loader.batch_sampler).__name__} may repeat or"
            " leave out images; pass its dataset, or a Subset of it"
        )
    if isinstance(loader.sampler, SubsetRandomSampler):
        source = Subset(source, list(map(int, loader.sampler.indices)))
    if loader.collate_fn is default_collate:
        return source
    collated = Collated(source, loader.collate_fn)
    if stream:
        return iter(collated)
    collated.check()
    return collated


def is_plain(loader: DataLoader) -> bool:
    """Whether a loader gives every sample that its sampler has once, in batches of torch's own."""
    sampler, batches = loader.sampler, loader.batch_sampler
    if type(batches) is not BatchSampler or batches.sampler is not sampler:
        return False
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) in (SequentialSampler, SubsetRandomSampler)


def _held(stream: Iterable[Any], samples: Samples) -> list[tuple[Tensor, int]]:
    """The samples of a stream, read once."""
    if not isinstance(stream, Iterable):
        raise PluginError(f"must be a Dataset, a DataLoader or a list of images, got {type(stream).__name__}")
    held, size = [], 0
    try:
        for index, sample in enumerate(stream):
            image, label = samples.item(sample, index)
            size += image.numel() * image.element_size()
            if size > HELD_BYTES:
                raise PluginError(
                    f"a stream is held in memory, and this one has more than {HELD_BYTES / 2**30:g} GiB of images; pass"
                    " a Dataset with a length"
                )
            held.append((image, label))
    except PluginError as error:
        raise PluginError(f"image {len(held)}: {error}") from None
    except Exception as error:  # of the user's code
        raise PluginError(f"image {len(held)}: cannot be read ({type(error).__name__}: {error})") from None
    return held
