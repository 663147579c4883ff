"""One split: which of its shards a process passes, which it finds stored, and what it keeps of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from nci_plugin.benchmarks.opening import image_batches
from nci_plugin.checks import PluginError, check_finite
from nci_plugin.features.forward import Forward, Passed
from nci_plugin.features.layout import Layout
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.store import SplitStore
from nci_plugin.features.sums import Sum

STATISTICS_SECONDS = 10.0
"""How often statistics are stored on the way, where nothing else is: a file can be as large as a shard."""


class SplitPass:
    """A split of images on its way through the network.

    ``keeps_features`` says whether its features are wanted, ``stages`` names those whose outputs are kept, and ``sums``
    are the statistics of its shards.
    """

    def __init__(
        self,
        name: str,
        images: Any,
        layout: Layout,
        store: SplitStore | None,
        forward: Forward,
        options: ExtractionOptions,
        *,
        keeps_features: bool,
        stages: Mapping[str, int],
        sums: Sequence[Sum],
    ) -> None:
        self.name, self.images, self.layout, self.store = name, images, layout, store
        self._forward, self._options = forward, options
        self.keeps_features, self.stages, self.sums = keeps_features, stages, sums
        self._shards: dict[int, Chunk] = {}
        self._outputs: dict[int, Mapping[str, Tensor]] = {}

    # ---------------------------------------------------------------- before the pass

    def bytes_to_store(self) -> int:
        """Bytes of features and stages' outputs that are not stored yet."""
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
        if any(each.whole is None and each.needs_images for each in self.sums):
            begun = min(each.done for each in self.sums if each.whole is None)
            known = any(each.whole is not None for each in self.sums) or self.store.is_finished
            again |= set(range(begun, self.layout.num_shards)) if known else set()
        return sum(self.layout.rows_of(number) for number in again)

    # ---------------------------------------------------------------- the pass

    def share(self, numbers: range, compares: bool, progress: Callable[[int], Any]) -> None:
        """Make what is not there yet of the shards ``numbers``; ``compares`` stored ones with the network first."""
        sums = [each for each in self.sums if each.whole is None]
        self._shards, self._outputs = self._stored(numbers, sums)
        if compares and 0 in self._shards:
            self._compare(self._shards[0])
        missing = [number for index, number in enumerate(numbers) if self._must_pass(index, number, sums)]
        passed = self._passed(missing, any(each.needs_images for each in sums), progress)
        to_pass, saved = set(missing), time.monotonic()
        for index, number in enumerate(numbers):
            new = next(passed) if number in to_pass else None
            if new is None:
                progress(self.layout.rows_of(number))
            else:
                self._keep(number, new)
            lacking = [each for each in sums if each.needs(index)]
            for each in lacking:
                each.add(self._shard(number, new))
            if lacking and time.monotonic() - saved > STATISTICS_SECONDS:
                for each in lacking:
                    if each.needs_images or not self.keeps_features:
                        each.save()
                saved = time.monotonic()
            if not self.keeps_features:
                self._shards.pop(number, None)
        for each in sums:
            if self._options.processes.size == 1:
                each.finish()
            else:
                each.save()

    def _stored(self, numbers: range, sums: Sequence[Sum]) -> tuple[dict[int, Chunk], dict[int, Mapping[str, Tensor]]]:
        """Shards of features that are needed, and outputs of the stages, as far as they are stored."""
        if self.store is None:
            return {}, {}
        from_features = [each.done for each in sums if not each.needs_images]
        wanted = numbers if self.keeps_features else numbers[min(from_features, default=len(numbers)) :]
        return (
            self.store.shards(wanted) if wanted else {},
            self.store.stages(list(self.stages), numbers) if self.stages else {},
        )

    def _must_pass(self, index: int, number: int, sums: Sequence[Sum]) -> bool:
        is_stored = number in self._shards
        return (
            (self.keeps_features and not is_stored)
            or (bool(self.stages) and number not in self._outputs)
            or any(each.needs(index) and (each.needs_images or not is_stored) for each in sums)
        )

    def _keep(self, number: int, new: Passed) -> None:
        # The features come last: where they are, the outputs of the stages that were asked for with them are too.
        if self.stages and number not in self._outputs:
            outputs = {stage: new.stages[stage] for stage in self.stages}
            self._outputs[number] = outputs if self.store is None else self.store.add_stages(number, outputs)
        if self.keeps_features and number not in self._shards:
            self._shards[number] = new.chunk if self.store is None else self.store.add_shard(number, new.chunk)

    def _shard(self, number: int, new: Passed | None) -> Passed:
        stored = self._shards.get(number)
        if stored is None:
            assert new is not None
            return new
        return Passed(stored, new.stages if new is not None else {})

    def _passed(self, numbers: Sequence[int], sums_stages: bool, progress: Callable[[int], Any]) -> Iterator[Passed]:
        """Pass the batches of some shards, and put each shard together."""
        starts = [start for number in numbers for start in self.layout.starts(number)]
        passed = self._forward.over(self._batches(starts), bool(self.stages) or sums_stages)
        checked = self._checked(passed, starts, progress)
        for number in numbers:
            yield Passed.joined(list(islice(checked, len(self.layout.starts(number)))))

    def _checked(
        self, passed: Iterator[Passed], starts: Sequence[int], progress: Callable[[int], Any]
    ) -> Iterator[Passed]:
        what = f"split '{self.name}'"
        for row, batch in zip(starts, passed):
            check_finite(f"{what} features", batch.chunk.features, first_index=row)
            check_finite(f"{what} logits", batch.chunk.logits, first_index=row)
            for stage, output in batch.stages.items():
                check_finite(f"{what} features of {stage}", output, first_index=row)
            progress(len(batch.chunk))
            yield batch

    def _batches(self, starts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (images, labels) that begin at these rows."""
        pinned = self._forward.device.type == "cuda"
        size, workers = self._options.batch_size, self._options.workers
        return image_batches(self.name, self.images, size, workers, pinned, starts)

    def _compare(self, stored: Chunk) -> None:
        assert self.store is not None
        now = self._forward(self._forward.probe)[0].cpu()
        then = stored.features[: len(now)]
        if (now - then).abs().max() > self._forward.tolerance * now.abs().max():
            raise PluginError(
                f"stored features of split '{self.name}' in '{self.store.directory}' are not what the network gives"
                " now; the network's code changed what it computes without changing its source: delete that directory"
            )

    # ---------------------------------------------------------------- after the pass

    def collect(self, provenance: Mapping[str, Any]) -> FeatureSplit | None:
        """The split's features, once every process has stored its share; None where they are not kept."""
        if not self.keeps_features:
            return None
        if self.store is not None:
            self._shards.update(self.store.shards(self._not_in(self._shards)))
            if self.stages:
                self._outputs.update(self.store.stages(list(self.stages), self._not_in(self._outputs)))
            rows = sum(map(len, self._shards.values()))
            if rows != self.layout.rows or (self.stages and len(self._outputs) != len(self._shards)):
                raise PluginError(
                    f"stored features of split '{self.name}' in '{self.store.directory}': {rows} of {self.layout.rows}"
                    " rows are there after the pass; all processes must see that directory, and its disk must keep what"
                    " is written"
                )
            self.store.finish(rows, provenance)
        return FeatureSplit([self._shards[number] for number in sorted(self._shards)])

    def in_float32(self) -> FeatureSplit:
        """The first batch once more, in float32."""
        images, labels = next(self._batches([0]))
        features, logits, _ = self._forward(images, float32=True)
        return FeatureSplit.of(features.cpu(), logits.cpu(), labels.long())

    def collect_stages(self) -> list[Mapping[str, Tensor]]:
        """The outputs of the stages, by shard, after `collect`."""
        return [self._outputs[number] for number in sorted(self._outputs)]

    def _not_in(self, found: Mapping[int, Any]) -> list[int]:
        return [number for number in range(self.layout.num_shards) if number not in found]
