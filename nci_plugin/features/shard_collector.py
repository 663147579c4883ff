"""A split that passes in shards, by one process or many: what each process makes, stores and reads of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.collector import Collector, Of, Sum
from nci_plugin.features.forward import Forward, Passed
from nci_plugin.features.processes import Processes
from nci_plugin.features.split import Chunk
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.features.store import SplitStore
from nci_plugin.files import digest

SHARD_BYTES = 64 * 2**20
SHARDS = 32
"""A shard holds at most so many bytes and a split has about so many shards, or more, so that processes can share it."""

STATISTICS_SECONDS = 10.0
"""How often statistics are stored on the way, where nothing else is: a file can be as large as a shard."""


@dataclass(frozen=True)
class Layout:
    """A split of ``rows`` as shards of whole batches, the same whatever the number of processes.

    ``row_bytes`` are those of the features and logits of a row.
    """

    rows: int
    batch_size: int
    row_bytes: int

    @property
    def rows_per_shard(self) -> int:
        size = self.batch_size
        return size * max(1, min(SHARD_BYTES // (self.row_bytes * size), -(-self.rows // (size * SHARDS))))

    @property
    def num_shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def rows_of(self, *numbers: int) -> int:
        """Rows of these shards: the last one may have fewer."""
        return sum(min(self.rows_per_shard, self.rows - number * self.rows_per_shard) for number in numbers)

    def starts(self, number: int) -> range:
        """The first rows of the batches of shard ``number``."""
        first = number * self.rows_per_shard
        return range(first, first + self.rows_of(number), self.batch_size)


class ShardCollector(Collector):
    """A Collector of a split that passes in shards, of which this process makes ``numbers``, every n-th.

    What is in ``store`` is not made again, and what is made is stored there; statistics go on where they were left.
    ``parts`` names the shares of all processes. The other arguments are a Collector's.
    """

    def __init__(
        self,
        layout: Layout,
        numbers: range,
        store: SplitStore | None,
        num_classes: int,
        statistics: Mapping[Of, int],
        features: bool = True,
        stages: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(num_classes, statistics, features, stages)
        self.layout, self.numbers, self.store = layout, numbers, store
        self.parts = [f"{first}of{numbers.step}" for first in range(numbers.step)]
        self._part, self._saved = self.parts[numbers.start], 0.0
        for of, each in self._sums.items():
            if store is not None and (whole := store.load_statistics(_name(of))) is not None:
                each.statistics, each.is_whole = whole, True
            elif store is not None and (begun := store.load_part(self._part, _name(of))) is not None:
                each.done, each.statistics = begun

    @property
    def lacking(self) -> dict[Of, Sum]:
        """The statistics that are not those of all shards yet."""
        return {of: each for of, each in self._sums.items() if not each.is_whole}

    @property
    def passes_stages(self) -> bool:
        """Whether the outputs of the network's stages are needed of the images that pass."""
        return bool(self.stages) or any(isinstance(of, str) for of in self.lacking)

    # ---------------------------------------------------------------- before the pass

    def bytes_to_store(self) -> int:
        """Bytes of features and outputs of stages that are not stored yet."""
        if self.store is None or not self.keeps_features:
            return 0
        rows = self.layout.rows
        missing = max(0, (self.layout.row_bytes + 8) * rows - sum(self.store.listed().values()))  # 8: an int64 label
        if self.stages:
            stored = self.store.listed(list(self.stages))
            missing += max(0, 4 * sum(self.stages.values()) * rows - sum(stored.values()))
        return missing

    def rows_again(self) -> int:
        """Images that must pass although their features, or statistics, are stored: without the stages' outputs."""
        if self.store is None:
            return 0
        again = set(self.store.listed()) - set(self.store.listed(list(self.stages))) if self.stages else set()
        lacking = self.lacking
        if any(isinstance(of, str) for of in lacking) and (len(lacking) < len(self._sums) or self.store.is_finished):
            again |= set(range(min(each.done for each in lacking.values()), self.layout.num_shards))
        return self.layout.rows_of(*again)

    # ---------------------------------------------------------------- the pass

    def missing(self) -> list[int]:
        """Those of this process's shards that must pass; of the others what is needed is read."""
        lacking = self.lacking
        if self.store is not None:
            done = [each.done for of, each in lacking.items() if not isinstance(of, str)]
            wanted = self.numbers if self.keeps_features else self.numbers[min(done, default=len(self.numbers)) :]
            self._shards = self.store.shards(wanted) if wanted else {}
            self._outputs = self.store.stages(list(self.stages), self.numbers) if self.stages else {}
        self._saved = time.monotonic()
        return [
            number
            for index, number in enumerate(self.numbers)
            if (self.keeps_features and number not in self._shards)
            or (self.stages and number not in self._outputs)
            or any(
                each.lacks(index) and (isinstance(of, str) or number not in self._shards)
                for of, each in lacking.items()
            )
        ]

    def first_stored(self) -> int | None:
        """The first shard that `missing` found stored, if there is one."""
        return min(self._shards, default=None) if self.store is not None else None

    def check_stored(self, forward: Forward, name: str, number: int, images: Tensor) -> None:
        """Raise PluginError unless the network gives what is stored of ``images``, the first of shard ``number``."""
        stored = self._shards[number]
        if self.store is not None and not forward.gives(images, stored.features, stored.logits):
            raise PluginError(
                f"stored features of split '{name}' in '{self.store.directory}' are not what the network gives now; its"
                " code, or the images, changed without changing the source, or size and time of the files: delete that"
                " directory"
            )

    def add_shard(self, number: int, new: Passed | None) -> None:
        """Take the next shard; ``new`` is None for one that need not pass."""
        if new is not None:
            self._keep(number, new)
        if number in self._shards:
            new = Passed(self._shards[number], {} if new is None else new.stages)
        lacking = self._update(new)
        for each in lacking.values():  # so that the bits are the same whether it is stored here or not
            each.statistics.flush()
        if lacking and time.monotonic() - self._saved > STATISTICS_SECONDS:
            # Statistics of stored features can be made again without a pass.
            self._save({of: lacking[of] for of in lacking if isinstance(of, str) or not self.keeps_features})
            self._saved = time.monotonic()
        if not self.keeps_features:
            self._shards.pop(number, None)

    def _keep(self, number: int, new: Passed) -> None:
        # The features come last: where they are, the outputs of the stages that were asked for with them are too.
        if self.store is None:
            super()._keep(number, new)
            return
        if self.stages and number not in self._outputs:
            outputs = {stage: new.stages[stage] for stage in self.stages}
            self._outputs[number] = self.store.add_stages(number, outputs)
        if self.keeps_features and number not in self._shards:
            self._shards[number] = self.store.add_shard(number, new.chunk)

    def end(self) -> None:
        """Store the statistics of this process's part; if it is the only one they are those of the split."""
        if len(self.parts) > 1:
            self._save(self.lacking)
            return
        for of, each in self.lacking.items():
            each.is_whole = True
            if self.store is not None:
                self.store.save_statistics(each.statistics, _name(of))

    def _save(self, sums: Mapping[Of, Sum]) -> None:
        for of, each in sums.items():
            if self.store is not None:
                self.store.save_part(self._part, each.done, each.statistics, _name(of))

    # ---------------------------------------------------------------- after the pass

    def gather(self, name: str, provenance: Mapping[str, Any], processes: Processes) -> None:
        """Take what all processes made of the split ``name``, with their statistics merged in the order of the parts.

        It is read where it was stored, and sent where it was not. Raises PluginError unless it is the whole split.
        """
        if self.store is None:
            self._receive(processes)
            return
        with processes.in_turn():  # the first merges and checks, the others read what it wrote
            if processes.is_first:
                self._merge_stored(self.store)
            for of, each in self.lacking.items():
                whole = self.store.load_statistics(_name(of))
                each.statistics, each.is_whole = whole or each.statistics, whole is not None
            if self.keeps_features:
                numbers = set(range(self.layout.num_shards))
                self._shards.update(self.store.shards(numbers - set(self._shards), processes.is_first))
                if self.stages:
                    missing = numbers - set(self._outputs)
                    self._outputs.update(self.store.stages(list(self.stages), missing, processes.is_first))
            self._check_whole(name, self.store)
            if self.keeps_features and processes.is_first:
                self.store.finish(self.layout.rows, {"split": name, **provenance})

    def _merge_stored(self, store: SplitStore) -> None:
        """Merge the statistics that lack parts of other processes, and store them."""
        for of, each in self.lacking.items():
            whole = each.statistics = ClassStatistics(each.statistics.num_classes, each.statistics.num_features)
            for part in self.parts:
                if (stored := store.load_part(part, _name(of))) is not None:
                    whole.merge(stored[1])
            if whole.num_samples == self.layout.rows:
                each.is_whole = True
                store.save_statistics(whole, _name(of))

    def _check_whole(self, name: str, store: SplitStore) -> None:
        """Raise PluginError unless statistics, features and outputs of stages are those of all rows."""
        rows, where = self.layout.rows, f"'{store.directory}'"
        remedy = "all processes must see that directory, and its disk must"
        if short := next(iter(self.lacking.values()), None):
            raise PluginError(
                f"stored statistics in {where}: of {short.statistics.num_samples} of {rows} images; {remedy} keep what"
                " is written"
            )
        found = sum(map(len, self._shards.values()))
        if self.keeps_features and (found != rows or (self.stages and len(self._outputs) != len(self._shards))):
            raise PluginError(
                f"stored features of split '{name}' in {where}: {found} of {rows} rows are there after the"
                f" pass; {remedy} keep what is written"
            )

    def _receive(self, processes: Processes) -> None:
        """Without a store: merge the statistics of all processes in their order, and take their features."""
        for each in self.lacking.values():
            parts = processes.together(each.statistics.state_dict)
            each.statistics = ClassStatistics.from_state_dict(parts[0])
            for part in parts[1:]:
                each.statistics.merge(ClassStatistics.from_state_dict(part))
            each.is_whole = True
        if processes.size == 1:
            return
        if self.keeps_features:
            for answer in processes.together(lambda: _flat({n: vars(chunk) for n, chunk in self._shards.items()})):
                self._shards.update({number: Chunk(**fields) for number, fields in _nested(answer).items()})
        if self.stages:
            for answer in processes.together(lambda: _flat(self._outputs)):
                self._outputs.update(_nested(answer))


def _flat(shards: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of shards under one name each."""
    return {f"{number} {name}": tensor for number, shard in shards.items() for name, tensor in shard.items()}


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The shards of `_flat`."""
    shards: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(" ")
        shards.setdefault(int(number), {})[name] = tensor
    return shards


def _name(of: Of) -> str:
    """The name of statistics in a SplitStore."""
    if isinstance(of, str):
        return f"stage-{digest(of)[:12]}"
    return "unit" if of is FitsOn.UNIT_STATISTICS else ""
