"""Images named by OpenOOD's image lists, read once each."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.decoding import Preprocessing, read_image
from nci_plugin.checks import PluginError, shown
from nci_plugin.progress import progress as shown_progress

if TYPE_CHECKING:  # torch and torchvision cost 3 s: what passes no image does without
    from torch import Tensor

    from nci_plugin.benchmarks.lines import Lines

OOD_LABEL = -1
LIST_BYTES = 2**35
"""The largest image list that is read: hundreds of millions of lines of 100 bytes."""

STAMP = np.dtype((np.int64, 2))
"""Size in bytes and modification time in nanoseconds of a file."""

LINE = re.compile(r"(.*\S)[ \t]+(\S+)", re.DOTALL)
"""Path and label: the path may hold spaces, and any number of them, or tabs, stand before the label."""

LABEL = re.compile(r"[+-]?\d{1,18}", re.ASCII)


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
        """The file of lines, under ``data_root``."""
        return self.data_root / self.imglist_path

    def place(self, index: int) -> str:
        """Where an image is named, for a message."""
        return f" (line {index + 1} of '{self.path}')"

    @property
    def directory(self) -> Path:
        """What the paths in the list are relative to, under ``data_root``."""
        return self.data_root / self.data_dir

    def read(self, progress: bool = False) -> ImageFiles:
        """Parse the list and look at every file, with a ``progress`` where it takes long.

        Raises PluginError on the first line that cannot be used, MissingFiles if the list or images are not there.
        """
        import torch

        from nci_plugin.benchmarks.lines import on_disk

        lines = self._lines()
        if not len(lines):
            raise PluginError(f"image list '{self.path}': the split is empty; it needs at least one 'path label' line")
        labels, stamps = torch.empty(len(lines), dtype=torch.int32), on_disk(len(lines), STAMP)
        missing, first = 0, ""
        with shown_progress("open", "img", len(lines), progress, delay=1) as bar:
            for index, line in enumerate(lines):
                name, label = self.parsed(line, index)
                stamp = file_stamp(self, os.path.join(self._root, name), index)
                if stamp is None:
                    missing, first = missing + 1, first or name
                if not -(2**31) <= label < 2**31:
                    labels = labels.long()
                labels.numpy()[index], stamps[index] = label, stamp or (0, 0)
                bar.update()
        if missing:
            raise MissingFiles(
                f"image list '{self.path}': {missing} of {len(lines)} images are missing under '{self.directory}',"
                f" first '{first}'; put the images there or pass --data-root",
                f"{missing} of {len(lines)} images, first {self.data_dir}{first}",
            )
        return ImageFiles(self, Names(self, lines), labels, stamps)

    def _lines(self) -> Lines:
        from nci_plugin.benchmarks.lines import Lines

        remedy = "lay the benchmark's lists under the data root or pass --data-root"
        try:
            return Lines(self.path, "image list", LIST_BYTES, remedy)
        except FileNotFoundError as error:
            raise MissingFiles(str(error), f"the list {self.imglist_path}") from None

    def parsed(self, line: str, index: int) -> tuple[str, int]:
        """Path and label of a line; raises PluginError on one that cannot be used."""
        parts = LINE.fullmatch(line.strip())
        if parts is None:
            raise self._refused(index, f"expected 'path label', got {shown(line)}")
        name, label = parts.groups()
        if not LABEL.fullmatch(label):
            raise self._refused(index, f"the label must be a small whole number, got {shown(label)}")
        return self._checked(name, index), int(label)

    def paths(self) -> Iterator[str]:
        """The path of each line that is not blank, with or without a label behind.

        Raises PluginError on the first line that cannot be used, before any path is given.
        """
        lines = self._lines()
        deque(self._paths(lines), maxlen=0)
        return self._paths(lines)

    def _paths(self, lines: Lines) -> Iterator[str]:
        return (self._path(line, index) for index, line in enumerate(lines) if line.strip())

    def _path(self, line: str, index: int) -> str:
        parts = LINE.fullmatch(line.strip())
        return self._checked(parts[1] if parts and LABEL.fullmatch(parts[2]) else line.strip(), index)

    def _checked(self, name: str, index: int) -> str:
        name = self._inside(name, index)
        if "\\" in name and not os.path.exists(os.path.join(self._root, name)):  # written on Windows
            name = self._inside(name.replace("\\", "/"), index)
        return name

    @cached_property
    def _root(self) -> str:
        return str(self.directory)  # Path objects for each of a million lines take seconds

    def _inside(self, name: str, index: int) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise self._refused(index, f"the path must stay inside '{self.directory}', got {shown(name)}")
        return name

    def _refused(self, index: int, reason: str) -> PluginError:
        return PluginError(f"image list '{self.path}' line {index + 1}: {reason}; correct the line")


def file_stamp(source: ImageSource, path: str, index: int) -> tuple[int, int] | None:
    """Size and modification time of an image of a source, None if it is not there.

    Raises PluginError if it is no regular file.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    if not stat.S_ISREG(status.st_mode):
        reason = "cannot be decoded (it is no regular file); replace the file"
        raise PluginError(f"image '{path}'{source.place(index)}: {reason}")
    return status.st_size, status.st_mtime_ns


class ImageSource(Protocol):
    """Where images were named: their directory, how they are preprocessed, and the place of each for a message."""

    @property
    def directory(self) -> Path: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def place(self, index: int) -> str: ...


class Names(Sequence[str]):
    """The paths in an image list, each read when it is asked for."""

    def __init__(self, source: ImageList, lines: Sequence[str]) -> None:
        self.source, self.lines = source, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        return self.source.parsed(self.lines[index], index)[0]

    def __iter__(self) -> Iterator[str]:
        return (self.source.parsed(line, index)[0] for index, line in enumerate(self.lines))


class Images:
    """A Dataset whose item i is (image (3, H, W), label).

    An image that cannot be decoded comes as a PluginError instead of an item, so that the error of a worker process
    reaches the user as one line.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | PluginError:
        try:
            return self.item(index)
        except PluginError as error:
            return error

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and label; raises PluginError naming the image if it cannot be decoded."""
        raise NotImplementedError


class ImageFiles(Images):
    """The images of a list or a folder that was read; ``stamps`` are size and modification time (n, 2)."""

    def __init__(self, source: ImageSource, names: Sequence[str], labels: Tensor, stamps: NDArray[np.int64]) -> None:
        self.source, self.names, self.labels, self.stamps = source, names, labels, stamps

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "stamps": self.stamps[:0]}  # no process that loads images asks for them

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and label; raises PluginError naming the file and its line if it cannot be decoded."""
        path = self.source.directory / self.names[index]
        image = read_image(path, self.source.preprocessing, "replace the file", self.source.place(index))
        return image, self.labels[index].long()

    def content(self) -> Iterator[str]:
        """Preprocessing, names, labels and file sizes, in pieces: the same after a copy to another place."""
        from nci_plugin.benchmarks.lines import json_list

        yield f"[{json.dumps(repr(self.source.preprocessing))}, "
        for values in (self.names, self.labels):
            yield from json_list(values)
            yield ", "
        yield from json_list(self.stamps[:, 0])
        yield "]"

    def fingerprint(self) -> Iterator[str]:
        """`content` and modification times. An image rewritten within its size and time is not noticed."""
        from nci_plugin.benchmarks.lines import json_list

        yield '["'
        yield from (json.dumps(piece)[1:-1] for piece in self.content())
        yield '", '
        yield from json_list(self.stamps[:, 1])
        yield "]"
