"""The training statistics, which grow shard by shard and are stored on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.features.forward import Passed
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.features.store import SplitStore
from nci_plugin.files import digest

FEATURES, UNIT = "", "unit"
"""Names of statistics in a SplitStore: of the features and of their `unit_rows`; a stage's are named by `of_stage`."""


def of_stage(stage: str) -> str:
    return f"stage-{digest(stage)[:12]}"


class Sum:
    """ClassStatistics of the rows (n, P) that ``read`` takes from each shard of the training split.

    ``whole`` are the statistics of all shards, None until those are there. ``needs_images`` says that ``read`` takes
    what only a pass gives and no shard of features holds.
    """

    def __init__(
        self,
        of: str,
        shape: tuple[int, int],
        store: SplitStore | None,
        read: Callable[[Passed], Tensor],
        needs_images: bool = False,
    ) -> None:
        self._of, self._shape, self._store, self._read = of, shape, store, read
        self.needs_images = needs_images
        self.whole = store.load_statistics(of) if store is not None else None
        self.done = 0

    def begin(self, part: str) -> None:
        """Go on where this process's ``part`` of the shards was left."""
        begun = self._store.load_part(part, self._of) if self._store is not None else None
        self._part, (self.done, self._own) = part, begun or (0, ClassStatistics(*self._shape))

    def needs(self, index: int) -> bool:
        """Whether shard ``index`` of the part is still to be added."""
        return self.whole is None and index >= self.done

    def add(self, shard: Passed) -> None:
        """Add the next shard of the part."""
        # Flushed, so that the bits are the same whether it is stored here or not.
        self._own.update(self._read(shard), shard.chunk.labels).flush()
        self.done += 1

    def save(self) -> None:
        """Store what there is of the part."""
        if self._store is not None:
            self._store.save_part(self._part, self.done, self._own, self._of)

    def finish(self) -> None:
        """Say that the part was all there is."""
        self.whole = self._own
        if self._store is not None:
            self._store.save_statistics(self.whole, self._of)

    def merge(self, parts: list[str], rows: int) -> None:
        """Merge the parts of all processes, in this order; raises PluginError unless they hold so many rows."""
        assert self._store is not None
        self.whole = ClassStatistics(*self._shape)
        for part in parts:
            _, statistics = self._store.load_part(part, self._of) or (0, ClassStatistics(*self._shape))
            self.whole.merge(statistics)
        if self.whole.num_samples != rows:
            raise PluginError(
                f"stored statistics in '{self._store.directory}': of {self.whole.num_samples} of {rows} images; all"
                " processes must see that directory, and its disk must keep what is written"
            )
        self._store.save_statistics(self.whole, self._of)


def training_sums(
    num_classes: int, num_features: int, unit: bool, stages: Mapping[str, int], store: SplitStore | None
) -> dict[str, Sum]:
    """Sums by name: of the features, of their `unit_rows` if asked for, and of each of the ``stages`` (name: width)."""
    shape = num_classes, num_features
    found = {FEATURES: Sum(FEATURES, shape, store, lambda shard: shard.chunk.features)}
    if unit:
        found[UNIT] = Sum(UNIT, shape, store, lambda shard: unit_rows(shard.chunk.features))
    for stage, width in stages.items():

        def read(shard: Passed, stage: str = stage) -> Tensor:
            return shard.stages[stage]

        found[of_stage(stage)] = Sum(of_stage(stage), (num_classes, width), store, read, needs_images=True)
    return found
