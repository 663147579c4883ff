"""Splits, opened and checked before anything long starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from nci_plugin.benchmarks.benchmark import Benchmark, Features, Source
from nci_plugin.benchmarks.decoding import Preprocessing, needed
from nci_plugin.benchmarks.folder import ImageFolder
from nci_plugin.benchmarks.image_list import ImageFiles, ImageList, MissingFiles
from nci_plugin.benchmarks.lines import blocks
from nci_plugin.benchmarks.samples import open_samples
from nci_plugin.benchmarks.shards import ImageShards
from nci_plugin.checks import PluginError, errors_begin, shown
from nci_plugin.rows import feature_rows, id_labels


def open_splits(benchmark: Benchmark, progress: bool = False) -> dict[str, Any]:
    """Read every image list and check lengths and labels, before anything long starts; with a ``progress`` if asked.

    Raises PluginError on the first split that cannot be used, or one about all splits that lack lists or images.
    """
    splits, missing = survey(benchmark, progress)
    if missing:
        raise missing_splits(benchmark, missing)
    return splits


def survey(benchmark: Benchmark, progress: bool = False) -> tuple[dict[str, Any], dict[str, MissingFiles]]:
    """Open every split; returns those that are there, and what the others lack.

    Raises PluginError on the first split that cannot be used for another reason.
    """
    splits: dict[str, Any] = {}
    missing: dict[str, MissingFiles] = {}
    for name, source in benchmark.splits.items():
        try:
            splits[name] = _open(name, source, benchmark, progress)
        except MissingFiles as error:
            missing[name] = error
    _check_classes(benchmark, splits)
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


def _open(name: str, source: Source, benchmark: Benchmark, progress: bool) -> Any:
    where = f"benchmark '{benchmark.name}' split '{name}'"
    num_classes = benchmark.num_classes if benchmark.is_id(name) else None
    if isinstance(source, ImageList):
        files = source.read(progress)
        if num_classes is not None:
            for rows in blocks(len(files)):
                labels = files.labels[rows]
                id_labels(f"image list '{source.path}'", labels, len(labels), num_classes, rows.start + 1, "line")
        return files
    if isinstance(source, ImageShards):
        return source.read(num_classes, progress)
    if isinstance(source, Features):
        return _features(where, source, benchmark.num_classes, num_classes is not None)
    with errors_begin(where):
        if isinstance(source, (str, Path)):
            return _folder(Path(source), benchmark.preprocessing, num_classes, progress)
        return open_samples(source, num_classes, benchmark.preprocessing)


def _features(where: str, source: Features, num_classes: int, is_id: bool) -> Features:
    """Features, labels of ID samples and logits through their gates."""
    features = feature_rows(f"{where} features", source.features)
    labels = None
    if is_id:
        if source.labels is None:
            raise PluginError(f"{where}: ID features need labels; pass Features(features, labels)")
        labels = id_labels(where, source.labels, len(features), num_classes)
    logits = None if source.logits is None else feature_rows(f"{where} logits", source.logits)
    if logits is not None and logits.shape != (len(features), num_classes):
        raise PluginError(
            f"{where}: expected logits of shape ({len(features)}, {num_classes}), got {tuple(logits.shape)};"
            " leave them out to have them computed"
        )
    return Features(features, labels, logits)


def _folder(path: Path, preprocessing: Preprocessing | None, num_classes: int | None, progress: bool) -> ImageFiles:
    if not path.is_dir():
        what = "is no folder" if path.exists() else "is not there"
        raise PluginError(
            f"'{path}' {what}; pass a folder of images, or for OpenOOD's list of them ImageList(imglist_path, data_dir,"
            " preprocessing)"
        )
    return ImageFolder(path, needed(preprocessing, f"the folder '{path}'")).read(num_classes, progress)


def _check_classes(benchmark: Benchmark, splits: Mapping[str, Any]) -> None:
    """Raise PluginError unless the sub-folders of all ID splits that are folders have the same names."""
    sources = {name: getattr(split, "source", None) for name, split in splits.items() if benchmark.is_id(name)}
    folders = {name: source for name, source in sources.items() if isinstance(source, ImageFolder)}
    classes = {name: folder.classes() for name, folder in folders.items()}
    for name, found in classes.items():
        first = next(iter(classes))
        if found != classes[first]:
            other = next(one for one in sorted({*found, *classes[first]}) if (one in found) != (one in classes[first]))
            raise PluginError(
                f"benchmark '{benchmark.name}': sub-folders of '{folders[first].directory}' and"
                f" '{folders[name].directory}' are other classes, '{other}' is in one alone; name them alike"
            )
    named = {name: indices for name, source in sources.items() if (indices := class_to_idx(source))}
    for name, indices in named.items():
        first = next(iter(named))
        for each in indices:
            if named[first].get(each, indices[each]) != indices[each]:
                raise PluginError(
                    f"benchmark '{benchmark.name}': class {shown(each)} is {named[first][each]} in '{first}' and"
                    f" {indices[each]} in '{name}' (class_to_idx of their datasets); give both the same classes"
                )


def class_to_idx(source: Any) -> Mapping[str, int]:
    """The classes by name of torchvision's data sets, also below loaders and Subsets; empty where labels are others."""
    while isinstance(source, (DataLoader, Subset)):
        source = source.dataset
    indices = getattr(source, "class_to_idx", None)
    changed = getattr(source, "target_transform", None) is not None
    if changed or not isinstance(indices, Mapping):
        return {}
    # A data set of the user's may call something else so.
    return indices if all(isinstance(index, Integral) for index in indices.values()) else {}


def image_batches(
    name: str,
    split: Dataset,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    starts: Iterable[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images (n, 3, H, W), labels (n,)) of a split: all, or those that begin at the rows ``starts``.

    A TensorDataset holds images that are decoded already. Raises PluginError, naming the split, on an image that cannot
    be decoded.
    """
    rows = len(split)  # type: ignore[arg-type]  # a map-style Dataset has a length
    starts = range(0, rows, batch_size) if starts is None else starts
    if isinstance(split, TensorDataset):
        images, labels = split.tensors
        yield from ((images[start : start + batch_size], labels[start : start + batch_size]) for start in starts)
        return
    loader = DataLoader(
        split,
        batch_sampler=[
            range(start, min(start + batch_size, rows))  # type: ignore[misc]  # as good as a list
            for start in starts
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
    """A batch (images, labels) of the items of a split, or the first error among them."""
    for item in items:
        if isinstance(item, PluginError):
            return item
    try:
        images, labels = default_collate(items)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        return PluginError(
            f"a batch cannot be put together ({reason}); images of a split must have one size after"
            " preprocessing: set pre_size and img_size"
        )
    return images, labels
