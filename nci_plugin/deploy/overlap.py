"""Images that are given twice: within one split, or in training and validation images both."""

from __future__ import annotations

import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset, SubsetRandomSampler
from torchvision.datasets import DatasetFolder

from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.benchmarks.samples import Collated, Samples
from nci_plugin.checks import PluginError, one_line
from nci_plugin.deploy.score_log import hash_of
from nci_plugin.features.fingerprint import tensor_bytes

SAME_CONTENTS = 0.01
"""So many different images, as a share of all, may validation have of training: by as much may the TPR be off."""


class Digested(Samples):
    """Samples that note a hash of each image, 8 bytes, where they are fetched: 0 of those that were not.

    The processes that load images share the notes.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples.source, samples.num_classes, samples.preprocessing)
        self.digests = torch.zeros(len(samples), dtype=torch.int64)
        with suppress(RuntimeError):  # a system without shared memory, where no other process loads images either
            self.digests.share_memory_()

    def __getitem__(self, index: int) -> tuple[Tensor, int] | PluginError:
        item = super().__getitem__(index)
        if not isinstance(item, PluginError):
            content = blake2b(tensor_bytes(item[0]), digest_size=8).digest()
            self.digests[index] = int.from_bytes(content, "little", signed=True)
        return item


def check_apart(train: Any, validation: Any) -> None:
    """Raise PluginError where validation images are training images too: a file, or an item of one data set.

    A file is known under other names too, by links. Of a copy see `check_contents_apart`.
    """
    both = np.isin(_hashes(validation, files=True), _hashes(train, files=True))
    if both.any():
        example = next(islice(_names(validation), int(both.argmax()), None))
        where = f", '{one_line(example)}' for one" if isinstance(example, str) else ""
        raise _shared(f"{int(both.sum())} of them are training images too{where}")


def check_contents_apart(train: Any, validation: Any) -> None:
    """Raise PluginError where many of the validation images that were fetched hold what a training image holds.

    Up to a share of `SAME_CONTENTS` is a warning, as is a single one, however often it comes: a data set may hold an
    image twice, and blank tiles are all the same. Files are not compared.
    """
    if not (isinstance(train, Digested) and isinstance(validation, Digested)):
        return
    seen = validation.digests.numpy()
    same = seen[(seen != 0) & np.isin(seen, train.digests.numpy())]
    said = f"{len(same)} of {len(seen)} hold the same numbers as a training image"
    if len(np.unique(same)) > max(1, SAME_CONTENTS * len(seen)):
        raise _shared(said)
    if len(same):
        warnings.warn(f"validation images: {said}; take them out, but for blank ones", stacklevel=2)


def _shared(how_many: str) -> PluginError:
    return PluginError(
        f"validation images: {how_many}; a network's scores of images that it was trained on are too high, so pass"
        " others"
    )


def check_once(source: Any) -> None:
    """Raise PluginError where a sampler, a Subset or a list gives one image more than once."""
    hashes = _hashes(source)
    repeated = len(hashes) - len(np.unique(hashes))
    if repeated:
        raise PluginError(
            f"{repeated} of {len(hashes)} images are given again, as a sampler, a Subset or a list repeats them; pass"
            " each once"
        )


def _hashes(source: Any, files: bool = False) -> NDArray[np.uint64]:
    """Of what `_names` gives, in its order: eight bytes an image; with ``files`` a file is known under any name."""
    return np.fromiter((hash_of(_key(name, files)) for name in _names(source)), dtype=np.uint64)


def _key(name: str | tuple[int, ...], files: bool) -> str:
    if isinstance(name, str) and files:
        try:
            status = os.stat(name)
        except (OSError, ValueError):  # said where it is opened
            return name
        return f"{status.st_dev} {status.st_ino}" if status.st_ino else os.path.realpath(name)
    return str(name)


def _names(source: Any, indices: Any = None) -> Iterator[str | tuple[int, ...]]:
    """What tells an image from another: its file's path, else its data set and its place there.

    In a list it is the item itself, which another list may hold too.
    """
    while isinstance(source, (DataLoader, Subset, Samples, Collated)):
        chosen = source.sampler if isinstance(source, DataLoader) else source
        if isinstance(chosen, (Subset, SubsetRandomSampler)):
            own = chosen.indices
            indices = own if indices is None else [own[index] for index in indices]
        source = source.dataset if isinstance(source, (DataLoader, Subset)) else source.source
    if isinstance(source, ConcatDataset):
        ends = [0, *source.cumulative_sizes]
        for index in range(ends[-1]) if indices is None else map(int, indices):
            part = bisect_right(ends, index % ends[-1]) - 1
            yield from _names(source.datasets[part], [index % ends[-1] - ends[part]])
        return
    if isinstance(source, ImageFiles):
        root = os.path.abspath(source.source.directory)
        yield from (os.path.join(root, name) for name in source.names)
        return
    if isinstance(source, (str, Path)):
        yield os.path.abspath(source)
        return
    if isinstance(source, StackDataset) and isinstance(source.datasets, tuple):
        source = source.datasets[0]  # the images; the labels are no part of one
    is_listed = isinstance(source, (list, tuple))
    items = source.samples if isinstance(source, DatasetFolder) else source  # pairs of a path and a class
    try:
        for place in range(len(items)) if indices is None else map(int, indices):
            item = items[place] if items is not source or is_listed else None
            path = item[0] if isinstance(item, (list, tuple)) and item else item
            if isinstance(path, (str, os.PathLike)):
                yield os.path.abspath(path)
            else:
                yield (id(item),) if is_listed else (id(source), place % len(items))
    except Exception:  # of the user's code, or without a length: said where it is opened
        return
