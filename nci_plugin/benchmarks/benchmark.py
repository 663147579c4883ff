"""What is evaluated: the splits of an OOD benchmark, in OpenOOD's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nci_plugin.benchmarks.image_list import OOD_LABEL, ImageList, Preprocessing
from nci_plugin.checks import PluginError, check_known, check_row_name

TRAIN, VALIDATION, TEST, OOD_VALIDATION = "id/train", "id/val", "id/test", "ood/val"
CSID, NEAR, FAR = "csid", "near", "far"
GROUP_ROWS = {NEAR: "nearood", FAR: "farood"}
"""The row of a table that holds the unweighted mean over the data sets of a group."""


@dataclass(frozen=True, eq=False)
class Features:
    """Already extracted features (n, P) with labels (n,); labels may be left out for OOD splits.

    Logits (n, K) are computed with the head where none are given.
    """

    features: Tensor
    labels: Tensor | None = None
    logits: Tensor | None = None


Source = Union[ImageList, Features, Dataset, Sequence[Any]]
"""A split: OpenOOD's image list, features, a Dataset of (image tensor, label), or a list of images.

Images of a list are paths or PIL images, each alone (OOD) or with its label.
"""


@dataclass(frozen=True)
class Benchmark:
    """A named set of splits.

    ``splits`` maps ``id/train``, ``id/val``, ``id/test``, ``ood/val``, ``csid/<data set>``, ``near/<data set>`` and
    ``far/<data set>`` to sources. Only ``id/test`` and one OOD set are always needed; a detector that fits needs
    ``id/train``, a hyper-parameter search ``id/val`` and ``ood/val``.
    """

    name: str
    num_classes: int
    splits: Mapping[str, Source]
    preprocessing: Preprocessing | None = None
    network: str | None = None
    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: str | None = None
    built_in: str | None = None

    @classmethod
    def from_splits(
        cls,
        name: str,
        num_classes: int,
        *,
        test: Source,
        near: Mapping[str, Source],
        far: Mapping[str, Source],
        train: Source | None = None,
        val: Source | None = None,
        ood_val: Source | None = None,
        csid: Mapping[str, Source] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> Benchmark:
        """A benchmark of your own: each split is a `Source`, groups map data set names to sources."""
        single = {TRAIN: train, VALIDATION: val, TEST: test, OOD_VALIDATION: ood_val}
        splits = {split: source for split, source in single.items() if source is not None}
        for group, sources in ((CSID, csid or {}), (NEAR, near), (FAR, far)):
            splits.update({f"{group}/{data_set}": source for data_set, source in sources.items()})
        return cls(name, num_classes, splits, preprocessing)

    def __post_init__(self) -> None:
        check_row_name("benchmark: name", self.name)
        for split in self.splits:
            if split not in (TRAIN, VALIDATION, TEST, OOD_VALIDATION):
                check_row_name(f"benchmark '{self.name}': data set", split.partition("/")[2])
        if TEST not in self.splits:
            raise PluginError(f"benchmark '{self.name}': the split '{TEST}' is missing; add the ID test images")
        if not self.data_sets(NEAR) and not self.data_sets(FAR):
            raise PluginError(f"benchmark '{self.name}': there is no OOD set; add one to '{NEAR}' or '{FAR}'")
        sets = [*self.data_sets(NEAR), *self.data_sets(FAR)]
        for name in sets:
            if sets.count(name) > 1 or name in GROUP_ROWS.values():
                raise PluginError(
                    f"benchmark '{self.name}': the OOD set '{name}' has the name of another row of its table;"
                    " give each set a name of its own"
                )

    def data_sets(self, group: str) -> list[str]:
        """Names of the data sets of ``csid``, ``near`` or ``far``, in order."""
        return [split.split("/", 1)[1] for split in self.splits if split.split("/")[0] == group]

    @staticmethod
    def is_id(split: str) -> bool:
        """Whether a split holds labelled samples of the ID classes (covariate-shifted ones included)."""
        return split.split("/")[0] in ("id", CSID)

    def with_data_root(self, data_root: Path) -> Benchmark:
        """The same benchmark with its image lists under ``data_root``."""
        splits = {
            name: replace(source, data_root=data_root) if isinstance(source, ImageList) else source
            for name, source in self.splits.items()
        }
        return replace(self, splits=splits)

    def with_csid(self, names: Sequence[str]) -> Benchmark:
        """The same benchmark with only these covariate-shifted sets; raises PluginError on an unknown one."""
        for name in names:
            check_known(f"covariate-shifted set (csid) of '{self.name}'", name, self.data_sets(CSID))
        kept = {f"{CSID}/{name}" for name in names}
        splits = {name: split for name, split in self.splits.items() if name.split("/")[0] != CSID or name in kept}
        return replace(self, splits=splits)


class ImageSequence(Dataset):
    """A list of images held by the caller: paths or PIL images, each alone (OOD) or as (image, label)."""

    def __init__(self, split: str, items: Sequence[Any], preprocessing: Preprocessing | None) -> None:
        if preprocessing is None:
            raise PluginError(
                f"split '{split}': a list of images needs a preprocessing; pass Benchmark(preprocessing=...)"
            )
        self.split, self.items, self.preprocessing = split, items, preprocessing

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | PluginError:
        item = self.items[index]
        image, label = item if isinstance(item, (tuple, list)) else (item, OOD_LABEL)
        if not isinstance(label, (int, np.integer)):
            return PluginError(f"split '{self.split}' image {index}: the label must be a whole number, got {label!r}")
        try:
            if isinstance(image, Image.Image):
                return self.preprocessing(image), torch.tensor(int(label))
            with Image.open(image) as opened:
                return self.preprocessing(opened), torch.tensor(int(label))
        except Exception as error:  # Pillow's decoders raise whatever their format's code runs into
            return PluginError(
                f"split '{self.split}' image {index}: cannot be decoded ({str(error) or type(error).__name__});"
                " pass a path or a PIL image, alone or with its label"
            )
