"""Splits, opened and checked before anything long starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nci_plugin.benchmarks.benchmark import Benchmark, Features, ImageSequence, Source
from nci_plugin.benchmarks.image_list import ImageList, MissingFiles
from nci_plugin.checks import PluginError, check_finite, check_labels


def open_splits(benchmark: Benchmark) -> dict[str, Any]:
    """Read every image list and check lengths and labels, before anything long starts.

    Raises PluginError on the first split that cannot be used, or one about all splits that lack lists or images.
    """
    splits, missing = survey(benchmark)
    if missing:
        raise missing_splits(benchmark, missing)
    return splits


def survey(benchmark: Benchmark) -> tuple[dict[str, Any], dict[str, MissingFiles]]:
    """Open every split; returns those that are there, and what the others lack.

    Raises PluginError on the first split that cannot be used for another reason.
    """
    splits: dict[str, Any] = {}
    missing: dict[str, MissingFiles] = {}
    for name, source in benchmark.splits.items():
        try:
            splits[name] = _open(name, source, benchmark)
        except MissingFiles as error:
            missing[name] = error
    return splits, missing


def missing_splits(benchmark: Benchmark, missing: Mapping[str, MissingFiles]) -> PluginError:
    """One error about all splits that lack their list or images; its details are a line for each of them."""
    first = str(next(iter(missing.values())))
    count = f"{len(missing)} of {len(benchmark.splits)} splits lack their list or images"
    width = max(map(len, missing))
    return PluginError(
        first if len(missing) == 1 else f"benchmark '{benchmark.name}': {count}; first {first}",
        [f"missing: {name:{width}}  {error.summary}" for name, error in missing.items()],
    )


def _open(name: str, source: Source, benchmark: Benchmark) -> Any:
    where = f"benchmark '{benchmark.name}' split '{name}'"
    if isinstance(source, ImageList):
        files = source.read()
        if benchmark.is_id(name):
            check_labels(f"image list '{source.path}'", files.labels, benchmark.num_classes, 1, "line")
        return files
    if isinstance(source, Features):
        rows, labels = len(source.features), source.labels
        if benchmark.is_id(name):
            if labels is None:
                raise PluginError(f"{where}: ID features need labels; pass Features(features, labels)")
            check_labels(where, labels, benchmark.num_classes)
        if rows == 0 or (labels is not None and len(labels) != rows):
            raise PluginError(f"{where}: needs at least one feature and one label for each, got {rows} features")
        check_finite(where, source.features)
        if source.logits is not None and source.logits.shape != (rows, benchmark.num_classes):
            raise PluginError(
                f"{where}: expected logits of shape ({rows}, {benchmark.num_classes}), got"
                f" {tuple(source.logits.shape)}; leave them out to have them computed"
            )
        return source
    if not isinstance(source, Dataset):
        source = ImageSequence(name, source, benchmark.preprocessing)
    if len(source) == 0:  # type: ignore[arg-type]  # a map-style Dataset has a length
        raise PluginError(f"{where}: the split is empty; it needs at least one image")
    return source


def image_batches(
    name: str,
    split: Dataset,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    starts: Iterable[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images (n, 3, H, W), labels (n,)) of a split: all, or those that begin at the rows ``starts``.

    Raises PluginError, naming the split, on an image that cannot be decoded.
    """
    rows = len(split)  # type: ignore[arg-type]  # a map-style Dataset has a length
    loader = DataLoader(
        split,
        batch_sampler=[
            range(start, min(start + batch_size, rows))  # type: ignore[misc]  # as good as a list
            for start in (range(0, rows, batch_size) if starts is None else starts)
        ],
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=collate,
    )
    for batch in loader:
        if isinstance(batch, PluginError):
            raise PluginError(f"split '{name}': {batch}") from None
        yield batch


def collate(items: list[Any]) -> Any:
    """A batch (images, labels), or the first error among its items. OpenOOD's dictionaries are understood."""
    for item in items:
        if isinstance(item, PluginError):
            return item
    if isinstance(items[0], Mapping):
        items = [(item["data"], item["label"]) for item in items]
    try:
        images, labels = default_collate(items)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        return PluginError(
            f"a batch cannot be put together ({reason}); images of a split must have one size after"
            " preprocessing: set pre_size and img_size"
        )
    return images, labels
