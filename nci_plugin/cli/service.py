"""What the commands of a service work on: images in folders or lists, or a benchmark's, and the network with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nci_plugin.benchmarks.benchmark import TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.folder import ImageFolder
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError
from nci_plugin.cli.groups import Data, Network, Pass, Service, Steps
from nci_plugin.cli.network import Job, known_steps, stated
from nci_plugin.config import benchmark_names
from nci_plugin.deploy import preprocessing
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.file import read
from nci_plugin.files import read_text
from nci_plugin.networks.checkpoints import find_checkpoints

NAME = "images"
"""What stands for the benchmark where there is none."""

CLASS_NAMES_BYTES = 2**24


@dataclass(frozen=True)
class Served:
    """A network on its device, its training and validation images, and how files become its input."""

    model: nn.Module
    train: Any
    validation: Any
    steps: Preprocessing | None
    workers: int


def find(on: Service, class_names: Sequence[str] | None = None) -> Served:
    """The images that a user names, and the network; raises PluginError on what is not there or does not fit.

    Where the images are in lists, whose labels may leave out the last classes, there are as many as ``class_names``.
    """
    if on.images in benchmark_names() or on.images.endswith((".yml", ".yaml")):
        return _of_benchmark(on)
    job = Job.of(NAME, on.network, Data(), on.passing)
    train, validation = _places(Path(on.images), on.val)
    given = stated(on.steps, job.weights)
    num_classes = _count(train, validation, on.data_root)
    if not train.is_dir():
        num_classes = max(num_classes, len(class_names or ()))
    try:
        model = _network(job, num_classes)
    except PluginError as error:
        if train.is_dir() or class_names is not None:
            raise
        raise PluginError(
            f"{error}; a network of {num_classes} classes was made, as no label in the lists is above"
            f" {num_classes - 1}: if there are more, name them all (--class-names of fit), or let the factory make them"
        ) from None
    found = known_steps(f"'{on.images}'", given or preprocessing.of_timm(model))
    train_source, validation_source = (_source(path, found, on.data_root) for path in (train, validation))
    return Served(model, train_source, validation_source, found, job.workers)


def network_of(path: Path, network: Network, passing: Pass) -> tuple[OODDetector, Job]:
    """A detector file, joined to the network that the options name."""
    job = Job.of(NAME, network, Data(), passing)
    fitted = read(path)
    model = _network(job, fitted.probe.logits.shape[1])
    return OODDetector.load(path, model), job


def class_names(given: tuple[str, ...] | None) -> list[str] | None:
    """Names as they stand, or those in a text file, one a line."""
    if given is None or len(given) > 1 or not Path(given[0]).is_file():
        return list(given) if given is not None else None
    text = read_text(Path(given[0]), "class names", CLASS_NAMES_BYTES, "pass a text file of one name a line")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _of_benchmark(on: Service) -> Served:
    name = on.images
    if on.val is not None or on.steps != Steps():
        raise PluginError(f"benchmark '{name}': has its own validation images and preprocessing; leave --val out")
    job = Job.of(name, on.network, Data(data_root=on.data_root), on.passing)
    inputs = job.find_one(name)
    for split in (TRAIN, VALIDATION):
        inputs.benchmark.check_has(split)
    first = _only(inputs.checkpoints, f"benchmark '{name}'")
    model, splits = job.build(job.as_trained(inputs.benchmark), first).to(job.device), inputs.benchmark.splits
    return Served(model, splits[TRAIN], splits[VALIDATION], inputs.benchmark.preprocessing, job.workers)


def _places(images: Path, val: Path | None) -> tuple[Path, Path]:
    """Where the training and the validation images are."""
    if not images.exists():
        raise PluginError(f"'{images}': is not there, and no benchmark has this name; pass a folder, a list or a YAML")
    if (images / "train").is_dir() and (images / "val").is_dir():
        images, val = images / "train", val or images / "val"
    if val is None:
        raise PluginError(
            f"'{images}': validation images are missing, which the network was not trained on; pass --val, or a folder"
            " with train/ and val/"
        )
    if not val.exists():
        raise PluginError(f"--val '{val}': is not there; pass a folder or a list")
    return images, val


def _source(path: Path, steps: Preprocessing, data_root: Path | None) -> Any:
    """A folder's path, or the image list."""
    if path.is_dir():
        return path
    return ImageList(str(path.resolve()), "", steps, data_root or path.parent)


def _count(train: Path, validation: Path, data_root: Path | None) -> int:
    """The number of classes: the sub-folders of the training images, or what lists of images name up to the last."""
    steps = Preprocessing(None, None, ((0.0,) * 3, (1.0,) * 3))

    def count(path: Path) -> int:
        if path.is_dir():
            return len(ImageFolder(path, steps).classes())
        return int(_source(path, steps, data_root).read().labels.max()) + 1

    if not train.is_dir():
        return max(count(train), count(validation))
    if not count(train):
        raise PluginError(f"folder '{train}': has no sub-folders, which are its classes; pass one that has")
    return count(train)


def _only(checkpoints: Mapping[str, Path], where: str) -> Path:
    first = next(iter(checkpoints.values()))
    if len(checkpoints) > 1:
        raise PluginError(
            f"{where}: has {len(checkpoints)} networks, and a detector belongs to one; pass --ckpt-path {first}"
        )
    return first


def _network(job: Job, num_classes: int) -> nn.Module:
    """The network of ``--net`` or of ``nci-ood train`` with the weights of ``--ckpt-path``, or torchvision's."""
    benchmark, path = job.as_trained(Benchmark(NAME, num_classes, {TEST: ""})), job.network.ckpt_path
    if job.weights is not None:
        job.weights.fetch()
    elif (job.network.net or benchmark.network) is None:
        raise PluginError("--net: is missing; pass FILE.py:FACTORY, torchvision:NAME or timm:NAME, and --ckpt-path")
    elif path is None:
        raise PluginError("--ckpt-path: is missing; pass the network's weights, or --tvs-pretrained for torchvision's")
    elif path.is_dir():
        path = _only(find_checkpoints(path), f"--ckpt-path '{path}'")
    return job.build(benchmark, path or Path()).to(job.device)
