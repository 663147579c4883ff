"""Images in tar files as WebDataset writes them: members ``KEY.jpg`` and ``KEY.cls`` in a row are a sample.

Nothing is unpacked, and nothing of a member but an image and a label is looked at. The library `webdataset` puts
members together to samples; its pipes, URLs and decoders are not used, since those run what a file says.
"""

from __future__ import annotations

import os
import re
import tarfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nci_plugin.benchmarks.decoding import IMAGE_BYTES, Preprocessing, decoded
from nci_plugin.benchmarks.folder import IMG_EXTENSIONS
from nci_plugin.benchmarks.image_list import LABEL, OOD_LABEL, Images
from nci_plugin.benchmarks.lines import blocks
from nci_plugin.checks import PluginError, shown
from nci_plugin.files import digest, open_regular, read_at
from nci_plugin.progress import progress as shown_progress
from nci_plugin.rows import id_labels

IMAGE_ENDINGS = tuple(ending[1:] for ending in IMG_EXTENSIONS)
LABEL_ENDING = "cls"
LABEL_BYTES, HEADER_BYTES, END_BYTES = 32, 2**20, 2**20
"""The largest label, the largest header, of names of members and what else stands before them, and the most zeros that
fill a file behind its end: of more, or of anything else, a part is lost."""

MB = 10**6
HASHED_BYTES = 4 * MB
"""Read at once of a shard that is hashed."""

REMOTE = re.compile(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://|.*::", re.DOTALL)
REMEDY = "write the shard again, or leave it out"


@dataclass(frozen=True)
class ImageShards:
    """Tar files of samples, in order; each is a path of this machine that ends in ``.tar``.

    It is relative to ``data_root`` where there is one, as for those of a YAML file.
    """

    paths: Sequence[str | Path]
    preprocessing: Preprocessing
    data_root: Path | None = None

    def files(self) -> list[Path]:
        """Where the tar files are; raises PluginError on what is no such path, without a look at the disk."""
        if isinstance(self.paths, (str, Path)) or not isinstance(self.paths, Sequence) or not len(self.paths):
            raise PluginError(f"image shards: must be a list of paths of tar files, got {shown(self.paths)}")
        return [(self.data_root or Path()) / _local(each) for each in self.paths]

    def read(self, num_classes: int | None, progress: bool = False) -> ShardedImages:
        """Look at the header of every member; ``num_classes`` is None for OOD images, whose labels are not looked at.

        With ``progress`` it is shown how far that is where it takes long.
        Raises PluginError on a path or a member that cannot be used, naming it, and on labels outside 0..K-1.
        """
        try:
            from webdataset.tariterators import group_by_keys
        except ImportError:
            raise PluginError(
                "image shards: webdataset is not installed; pip install 'nci_plugin[webdataset]'"
            ) from None

        paths = self.files()
        columns, ends = (array("q"), array("q"), array("q")), []
        with shown_progress("open", "shard", len(paths), progress, delay=1) as bar:
            for path in paths:
                file = open_regular(path, "image shard", REMEDY)
                try:
                    with file:
                        members = _members(path, file, num_classes is not None)
                        _look_through(group_by_keys(members, _key_and_ending), columns, num_classes)
                except PluginError as error:
                    raise PluginError(f"image shard '{path}': {error}; {REMEDY}") from None
                except (tarfile.TarError, ValueError, OSError, EOFError, OverflowError, RecursionError) as error:
                    reason = getattr(error, "strerror", None) or str(error.args[0] if error.args else error)
                    raise PluginError(f"image shard '{path}': cannot be read ({reason}); {REMEDY}") from None
                ends.append(len(columns[0]))
                bar.update()
        places, sizes, labels = (torch.from_numpy(np.array(each, np.int64)) for each in columns)
        if not len(places):
            raise PluginError(f"image shard '{paths[0]}': the split is empty; it needs at least one image")
        for rows in blocks(len(labels) if num_classes is not None else 0):
            part, what = labels[rows], f"image shards '{paths[0]}'..."
            id_labels(what, part, len(part), num_classes or 0, rows.start, "sample")
        return ShardedImages(self.preprocessing, paths, ends, places, sizes, labels)


def _look_through(
    samples: Iterable[dict[str, Any]], columns: tuple[array[int], array[int], array[int]], num_classes: int | None
) -> None:
    """Take place, size and label of every sample of one shard."""
    keys: set[str] = set()
    for sample in samples:
        found = _sample(sample, num_classes)
        if sample["__key__"] in keys:
            raise PluginError(f"sample {shown(sample['__key__'])} is there twice")
        keys.add(sample["__key__"])
        for column, value in zip(columns, found):
            column.append(value)


class ShardedImages(Images):
    """The images of shards that were looked through."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        paths: Sequence[Path],
        ends: Sequence[int],
        places: Tensor,
        sizes: Tensor,
        labels: Tensor,
    ) -> None:
        self.preprocessing, self.paths, self.ends = preprocessing, paths, ends
        self.places, self.sizes, self.labels = places, sizes, labels
        self.stamps = [_stamp(os.stat(path)) for path in paths]
        self._open: tuple[int, BinaryIO, Callable[[], Any]] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": None}

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and label; raises PluginError naming the shard and the sample if it cannot be decoded."""
        shard = bisect_right(self.ends, index)
        path, place = self.paths[shard], f" (sample {index - (self.ends[shard - 1] if shard else 0)})"
        file = self._file(shard)
        data = read_at(file, int(self.places[index]), int(self.sizes[index]))
        if _stamp(os.fstat(file.fileno())) != self.stamps[shard]:
            raise PluginError(f"image shard '{path}': it changed since it was read; run again")
        return decoded(data, f"image in '{path}'{place}", self.preprocessing, REMEDY), self.labels[index].long()

    def fingerprint(self) -> Iterator[str]:
        """Preprocessing, and name, size and modification time of every shard, which know a rewritten one."""
        yield repr(self.preprocessing)
        for path, stamp in zip(self.paths, self.stamps):
            yield f"\n{path.name} {stamp}"

    def content(self, progress: bool = False) -> str:
        """Hash of the bytes of all shards, which are read for it, with a ``progress`` where it takes long."""
        hashes, total = [], sum(-(-size // MB) for size, _ in self.stamps)
        with shown_progress("hash", "MB", total, progress, delay=1) as bar:
            for path in self.paths:
                hasher = blake2b(digest_size=16)
                with open_regular(path, "image shard", REMEDY) as file:
                    while data := file.read(HASHED_BYTES):
                        hasher.update(data)
                        bar.update(-(-len(data) // MB))
                hashes.append(hasher.hexdigest())
        return digest(*hashes)

    def _file(self, shard: int) -> BinaryIO:
        """A shard, open: one at a time, since images come in order and there may be more than files can be open."""
        if self._open is None or self._open[0] != shard:
            if self._open is not None:
                self._open[2]()
            file = open_regular(self.paths[shard], "image shard", REMEDY)
            self._open = shard, file, weakref.finalize(self, file.close)
        return self._open[1]


def _local(path: Any) -> Path:
    text = os.fspath(path) if isinstance(path, (str, Path)) else ""
    if REMOTE.match(text):
        raise PluginError(f"image shard {shown(text)}: pipes and URLs are not read; download it, and pass its path")
    if not text.endswith(".tar"):
        raise PluginError(f"image shard {shown(path)}: must be the path of a file that ends in .tar")
    return Path(text)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class _Headers:
    """A tar file as `tarfile` may see it: a header that says that it is long would be read, whatever it takes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise PluginError(f"a header of {size} bytes is more than can be right")
        return self.file.read(size)


def _members(path: Path, file: BinaryIO, with_labels: bool) -> Iterator[dict[str, Any]]:
    """Images, as where they lie, and labels, as their bytes; raises PluginError on a member that cannot be used."""
    size = os.fstat(file.fileno()).st_size
    headers: Any = _Headers(file)
    with tarfile.TarFile(fileobj=headers, mode="r", encoding="utf-8", errors="surrogateescape") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # they are kept for who unpacks
            name = shown(member.name)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise PluginError(f"member {name} is a link, a device or sparse, not a plain file")
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise PluginError(f"member {name} lies outside of the shard")
            if not 0 <= member.size <= size - member.offset_data:
                raise PluginError(f"member {name} says {member.size} bytes, more than the file has")
            key, ending = _key_and_ending(member.name)
            if key.endswith("/") or not key:  # a hidden file
                continue
            if ending.rpartition(".")[2] in IMAGE_ENDINGS:
                if member.size > IMAGE_BYTES:
                    raise PluginError(f"member {name} has {member.size} bytes, more than can be right")
                yield {"fname": member.name, "data": (member.offset_data, member.size), "__url__": str(path)}
            elif ending == LABEL_ENDING and with_labels:
                if member.size > LABEL_BYTES:
                    raise PluginError(f"member {name} has {member.size} bytes, more than a label")
                data = read_at(file, member.offset_data, member.size)
                yield {"fname": member.name, "data": data, "__url__": str(path)}
        file.seek(tar.offset)
        end = file.read(END_BYTES + 1)
        if end[: tarfile.BLOCKSIZE] != tarfile.NUL * tarfile.BLOCKSIZE:  # else tarfile ends without a word
            raise PluginError(f"it is cut off or damaged at byte {tar.offset}")
        if len(end) > END_BYTES or end.strip(tarfile.NUL):
            raise PluginError(
                f"it ends at byte {tar.offset} of {size}, but more follows: it is damaged, or several tar files in one"
            )


def _key_and_ending(name: str) -> tuple[str, str]:
    """As WebDataset takes a name apart: the ending begins at the first dot of a file's name."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, ending.lower()


def _sample(sample: dict[str, Any], num_classes: int | None) -> tuple[int, int, int]:
    """Where the image of a sample lies, its size, and its label."""
    key = shown(sample["__key__"])
    images = [ending for ending in IMAGE_ENDINGS if ending in sample]
    if len(images) != 1:
        longer = next((ending for ending in sample if ending.rpartition(".")[2] in IMAGE_ENDINGS and "." in ending), "")
        why = (
            f" (the ending begins at the first dot of a name, and {shown(longer)} is none of images)" if longer else ""
        )
        raise PluginError(f"sample {key} has {len(images)} images; it needs one{why}")
    label = OOD_LABEL
    if num_classes is not None:
        text = sample.get(LABEL_ENDING, b"").decode("ascii", "replace").strip()
        if not LABEL.fullmatch(text):
            what = f"the label {shown(text)}" if LABEL_ENDING in sample else f"no .{LABEL_ENDING}"
            raise PluginError(f"sample {key} has {what}; it needs a whole number in KEY.{LABEL_ENDING}")
        label = int(text)
    place, size = sample[images[0]]
    return place, size, label
