"""What is evaluated: the splits of an OOD benchmark, in OpenOOD's groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError, check_known, check_row_name, shown

if TYPE_CHECKING:  # torch costs 1.5 s: commands that only read results do without
    from torch.utils.data import DataLoader, Dataset

    from nci_plugin.benchmarks.shards import ImageShards

TRAIN, VALIDATION, TEST, OOD_VALIDATION = "id/train", "id/val", "id/test", "ood/val"
CSID, NEAR, FAR = "csid", "near", "far"
MOST_CLASSES = 10**9
GROUP_ROWS = {NEAR: "nearood", FAR: "farood"}
"""The row of a table that holds the unweighted mean over the data sets of a group."""


class Split(NamedTuple):
    """A split's name in its parts.

    >>> Split.parse("near/cifar100")
    Split(group='near', name='cifar100')
    """

    group: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Split:
        """The parts of a name as benchmarks, banks and stored scores write it, ``group/name``."""
        group, _, name = text.partition("/")
        return cls(group, name)

    @property
    def is_id(self) -> bool:
        """Whether it holds labelled samples of the ID classes (covariate-shifted ones included)."""
        return self.group in ("id", CSID)

    @property
    def is_ood(self) -> bool:
        """Whether it holds OOD samples that are tested on."""
        return self.group in (NEAR, FAR)

    @property
    def is_tested(self) -> bool:
        """Whether scores of it are part of a result."""
        return self.is_ood or self.group == CSID or f"{self.group}/{self.name}" == TEST


@dataclass(frozen=True, eq=False)
class Features:
    """Already extracted features (n, P) with labels (n,); labels of OOD splits are not looked at.

    Logits (n, K) are computed with the head where none are given. All may be tensors, arrays or lists of numbers.
    """

    features: Any
    labels: Any = None
    logits: Any = None

    def __repr__(self) -> str:
        shape = getattr(self.features, "shape", None) or (len(self.features),)
        return f"Features({' x '.join(map(str, shape))}{', labelled' if self.labels is not None else ''})"


Source = Union[ImageList, "ImageShards", Features, str, Path, "Dataset", "DataLoader", Sequence[Any], Iterable[Any]]
"""A split: OpenOOD's image list, WebDataset's tar files, features, a folder of images, or samples.

A folder has one sub-folder for each class in ID splits (see `ImageFolder`), and any images in OOD splits. Samples are a
Dataset, a DataLoader, a list or a stream (see `open_samples`). Each is an image, alone (OOD) or with its label, or a
mapping of both; an image is a preprocessed tensor, or a path or PIL image, for which the benchmark has a preprocessing.
"""


def splits_of_group(what: str, group: str, sources: Mapping[str, Source] | None) -> dict[str, Source]:
    """The sources of a group's data sets by split; raises PluginError, which begins with ``what``, on no mapping."""
    if not isinstance(sources, (Mapping, type(None))):
        raise PluginError(
            f"{what} must map names of data sets to their images, got {type(sources).__name__}; pass"
            f" {group}={{'a name': ...}}"
        )
    return {f"{group}/{name}": source for name, source in (sources or {}).items()}


@dataclass(frozen=True)
class Benchmark:
    """A named set of splits.

    ``splits`` maps ``id/train``, ``id/val``, ``id/test``, ``ood/val``, ``csid/<data set>``, ``near/<data set>`` and
    ``far/<data set>`` to sources. Only ``id/test`` is always needed; an evaluation needs a near or far set, a detector
    that fits needs ``id/train``, a hyper-parameter search ``id/val`` and ``ood/val``.
    """

    name: str
    num_classes: int
    splits: Mapping[str, Source]
    preprocessing: Preprocessing | None = None
    network: str | None = None
    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: str | None = None
    built_in: str | None = None

    def __repr__(self) -> str:
        return f"Benchmark({self.name!r}, {self.num_classes} classes, splits: {', '.join(self.splits)})"

    @classmethod
    def from_splits(
        cls,
        name: str,
        num_classes: int,
        *,
        test: Source,
        near: Mapping[str, Source] | None = None,
        far: Mapping[str, Source] | None = None,
        train: Source | None = None,
        val: Source | None = None,
        ood_val: Source | None = None,
        csid: Mapping[str, Source] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> Benchmark:
        """A benchmark of your own: each split is a `Source`, groups map data set names to sources."""
        single = {TRAIN: train, VALIDATION: val, TEST: test, OOD_VALIDATION: ood_val}
        splits = {split: source for split, source in single.items() if source is not None}
        for group, sources in ((CSID, csid), (NEAR, near), (FAR, far)):
            splits.update(splits_of_group(f"benchmark '{name}': {group}", group, sources))
        return cls(name, num_classes, splits, preprocessing)

    def __post_init__(self) -> None:
        check_row_name("benchmark", self.name)
        try:
            classes = index(self.num_classes)
        except TypeError:
            classes = 0
        if not 0 < classes <= MOST_CLASSES:
            raise PluginError(
                f"benchmark '{self.name}': num_classes must be a whole number from 1 to {MOST_CLASSES}, got"
                f" {shown(self.num_classes)}"
            )
        object.__setattr__(self, "num_classes", classes)
        for split in self.splits:
            group, data_set = Split.parse(split)
            if group in (CSID, NEAR, FAR):
                check_row_name(f"benchmark '{self.name}': data set of {group}", data_set)
            else:
                check_known(f"split of benchmark '{self.name}'", split, [TRAIN, VALIDATION, TEST, OOD_VALIDATION])
        self.check_has(TEST, "add the ID test images")
        sets = [*self.data_sets(NEAR), *self.data_sets(FAR)]
        for name in sets:
            if sets.count(name) > 1 or name in GROUP_ROWS.values():
                raise PluginError(
                    f"benchmark '{self.name}': the OOD set '{name}' has the name of another row of its table;"
                    " give each set a name of its own"
                )

    @property
    def has_ood(self) -> bool:
        """Whether there is an OOD set to be told from the ID test images."""
        return bool(self.data_sets(NEAR) or self.data_sets(FAR))

    def check_has(self, split: str, remedy: str = "add it to the YAML") -> None:
        """Raise PluginError, which ends with ``remedy``, where a split is missing."""
        if split not in self.splits:
            raise PluginError(f"benchmark '{self.name}': the split '{split}' is missing; {remedy}")

    def check_has_ood(self) -> None:
        """Raise PluginError where there is no OOD set: an evaluation needs one."""
        if not self.has_ood:
            raise PluginError(f"benchmark '{self.name}': there is no OOD set; add one to '{NEAR}' or '{FAR}'")

    def data_sets(self, group: str) -> list[str]:
        """Names of the data sets of ``csid``, ``near`` or ``far``, in order."""
        return [split.name for split in map(Split.parse, self.splits) if split.group == group]

    @staticmethod
    def is_id(split: str) -> bool:
        """Whether a split holds labelled samples of the ID classes (covariate-shifted ones included)."""
        return Split.parse(split).is_id

    def with_data_root(self, data_root: Path) -> Benchmark:
        """The same benchmark with its image lists, and the tar files of a YAML file, under ``data_root``."""
        from nci_plugin.benchmarks.shards import ImageShards

        def placed(source: Source) -> Source:
            has_root = isinstance(source, (ImageList, ImageShards)) and source.data_root is not None
            return replace(source, data_root=data_root) if has_root else source  # type: ignore[type-var]

        return replace(self, splits={name: placed(source) for name, source in self.splits.items()})

    def with_csid(self, names: Sequence[str]) -> Benchmark:
        """The same benchmark with only these covariate-shifted sets; raises PluginError on an unknown one."""
        for name in names:
            check_known(f"covariate-shifted set (csid) of '{self.name}'", name, self.data_sets(CSID))
        kept = {f"{CSID}/{name}" for name in names}
        splits = {name: split for name, split in self.splits.items() if Split.parse(name).group != CSID or name in kept}
        return replace(self, splits=splits)
