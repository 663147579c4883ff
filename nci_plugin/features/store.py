"""A split on disk.

It is a directory of shards. A shard is a safetensors file that holds whole batches and is named by its number and the
hash of its bytes, its number and its place, so a file that was cut short, changed or brought from elsewhere is found
without another list; ``split.json`` is written last and tells how many rows a finished split has. Statistics, and the
outputs of the network's stages where they were asked for, lie beside the shards. Files are written beside their place
and renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.files import digest, write_atomically

FINISHED = "split.json"


class SplitStore:
    """The directory of one stored split.

    Its name and its parent's say what the split was made from, so another list, network or preprocessing is another
    directory and stale features are never read. They are part of every file's hash, so a file of another split or
    network is as good as a damaged one: it is removed and made again.
    """

    FILE_NAME = re.compile(r"(?P<kind>[a-z0-9-]+)-(?P<hash>[0-9a-f]{32})\.safetensors")

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def is_name(cls, name: str) -> bool:
        """Whether a file has a name that this class gives."""
        return name == FINISHED or cls.FILE_NAME.fullmatch(name) is not None

    @property
    def is_finished(self) -> bool:
        return (self.directory / FINISHED).is_file()

    # ---------------------------------------------------------------- features

    def shards(self, numbers: Collection[int] | None = None, check: bool = True) -> dict[int, Chunk]:
        """The valid shards by number, of all or of some ``numbers``; damaged ones of these are removed.

        Without ``check`` they are not read, as another process of this run has read them.
        """
        fields = ("features", "logits", "labels")
        return {number: Chunk(*_mapped(path, fields).values()) for number, path in self._valid("", numbers, check)}

    def stages(
        self, names: Sequence[str], numbers: Collection[int], check: bool = True
    ) -> dict[int, Mapping[str, Tensor]]:
        """As `shards`, the outputs of the network's stages ``names`` that were stored beside those ``numbers``."""
        return {number: _mapped(path, names) for number, path in self._valid(_stages_prefix(names), numbers, check)}

    def listed(self, stages: Sequence[str] = ()) -> dict[int, int]:
        """Bytes, by number, of the files that look like shards, or like outputs of ``stages``; damaged or not."""
        return {number: path.stat().st_size for number, path in self._numbered(_stages_prefix(stages))}

    def add_shard(self, number: int, chunk: Chunk) -> Chunk:
        """Store a shard; returns it as it is stored, memory-mapped."""
        return Chunk(*self._add(f"{number:05d}", vars(chunk)).values())

    def add_stages(self, number: int, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Store the outputs of the network's stages on the rows of a shard; returns them memory-mapped."""
        return self._add(f"{_stages_prefix(list(outputs))}{number:05d}", outputs)

    def finish(self, rows: int, provenance: Mapping[str, Any]) -> None:
        """Say that all shards are there."""
        path, text = self.directory / FINISHED, json.dumps({"rows": rows, **provenance}, indent=1) + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text)

    def load(self) -> FeatureSplit | None:
        """The finished split, or None where it is not finished or damaged (it is then extracted again)."""
        if not self.is_finished:
            return None
        shards = self.shards()
        try:
            whole = sum(map(len, shards.values())) == json.loads((self.directory / FINISHED).read_text())["rows"]
        except (ValueError, TypeError, KeyError):
            whole = False
        if whole and list(shards) == list(range(len(shards))):
            return FeatureSplit(list(shards.values()))
        (self.directory / FINISHED).unlink(missing_ok=True)
        return None

    # ---------------------------------------------------------------- statistics

    # Statistics of the features have no name; of what else, such as of their `unit_rows`, is the ``of`` of these verbs.

    def save_statistics(self, statistics: ClassStatistics, of: str = "") -> None:
        """Store the statistics of a whole training split; those of its parts are removed."""
        kind = _kind(of, "statistics")
        path = self._write(kind, safetensors.torch.save(statistics.state_dict()))
        self._remove(lambda name: name == kind or name.startswith(_kind(of, "part-")), but=path)

    def load_statistics(self, of: str = "") -> ClassStatistics | None:
        """The stored statistics, or None where there are none or their file is damaged."""
        for kind, path in self._files():
            if kind == _kind(of, "statistics") and (data := self._read(path)) is not None:
                return ClassStatistics.from_state_dict(safetensors.torch.load(data))
        return None

    def save_part(self, part: str, shards: int, statistics: ClassStatistics, of: str = "") -> None:
        """Store the statistics of the first ``shards`` shards of a ``part`` of the split, to go on from there."""
        # Not durable: a file that a power cut damages is found by its hash, and the one before it is not needed.
        data, prefix = safetensors.torch.save(statistics.state_dict()), _kind(of, f"part-{part}-")
        path = self._write(f"{prefix}{shards:05d}", data, durable=False)
        self._remove(lambda kind: kind.startswith(prefix), but=path)

    def load_part(self, part: str, of: str = "") -> tuple[int, ClassStatistics] | None:
        """What `save_part` stored last of a part, or None."""
        found = {kind: path for kind, path in self._files() if kind.startswith(_kind(of, f"part-{part}-"))}
        for kind, path in sorted(found.items(), reverse=True):
            if (data := self._read(path)) is not None:
                return _number(kind), ClassStatistics.from_state_dict(safetensors.torch.load(data))
        return None

    # ---------------------------------------------------------------- inside

    def _files(self) -> list[tuple[str, Path]]:
        """Kind and path of the files that are named as this class names them, in the order of their names."""
        try:
            found = [
                (match["kind"], path)
                for path in (self.directory.iterdir() if self.directory.is_dir() else ())
                if (match := self.FILE_NAME.fullmatch(path.name)) and path.is_file()
            ]
        except OSError as error:
            raise PluginError(f"cannot read '{self.directory}': {error.strerror}; delete that directory") from None
        return sorted(found)

    def _name(self, kind: str, data: bytes) -> str:
        return f"{kind}-{digest(self.directory.parent.name, self.directory.name, kind, data)}.safetensors"

    def _write(self, kind: str, data: bytes, durable: bool = True) -> Path:
        path = self.directory / self._name(kind, data)
        write_atomically(path, data, durable)
        return path

    def _read(self, path: Path) -> bytes | None:
        """The bytes of a file, None if they are not those that it was named by."""
        match = self.FILE_NAME.fullmatch(path.name)
        assert match is not None
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process took it away
            return None
        except OSError as error:
            raise PluginError(f"cannot read '{path}': {error.strerror}; delete that file") from None
        return data if path.name == self._name(match["kind"], data) else None

    def _numbered(self, prefix: str) -> list[tuple[int, Path]]:
        """Number and path of the files whose kind is ``prefix`` and five digits, by number."""
        pattern = re.compile(rf"{prefix}\d{{5}}")
        return [(_number(kind), path) for kind, path in self._files() if pattern.fullmatch(kind)]

    def _valid(self, prefix: str, numbers: Collection[int] | None, check: bool) -> Iterator[tuple[int, Path]]:
        """The whole ones of `_numbered`; those that are damaged or there twice are removed."""
        found: set[int] = set()
        for number, path in self._numbered(prefix):
            if numbers is not None and number not in numbers:
                continue
            if number in found or (check and self._read(path) is None):
                path.unlink(missing_ok=True)
            else:
                found.add(number)
                yield number, path

    def _add(self, kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        data = {name: tensor.contiguous() for name, tensor in tensors.items()}
        # Not durable, as the pass would wait for the disk: a file that a power cut damages is found and made again.
        path = self._write(kind, safetensors.torch.save(data, metadata={"format": "pt"}), durable=False)
        return _mapped(path, list(tensors))

    def _remove(self, wanted: Callable[[str], bool], but: Path) -> None:
        for kind, path in self._files():
            if wanted(kind) and path != but:
                path.unlink(missing_ok=True)


def _kind(of: str, rest: str) -> str:
    return f"{of}-{rest}" if of else rest


def _stages_prefix(names: Sequence[str]) -> str:
    """Names the stages, so that outputs of others, as another version may find them, are not read for these."""
    return f"stages-{digest(*names)[:12]}-" if names else ""


def _number(kind: str) -> int:
    return int(kind.rpartition("-")[2])


def _mapped(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}
