"""What the built-in benchmark needs and a fresh machine lacks: its images and its checkpoints.

A training leaves ``training.json`` (network and recipe), and for every seed ``s0/history.jsonl`` (a line an epoch),
``s0/model_epoch10.ckpt`` where epochs are saved, named as OpenOOD's recorder names them, and last ``s0/best.ckpt``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError, check_keys, check_known, check_number, shown
from nci_plugin.files import write_atomically
from nci_plugin.networks.factory import build_network
from nci_plugin.networks.named import FORMER, build_named, check_named
from nci_plugin.parsing import read_json, write_json
from nci_plugin.training.train import Entry, Recipe, save_checkpoint, train

SEEDS = (0, 1, 2)

REGIMES = {
    "standard": Recipe(),
    # To zero training error and on, with nothing that regularises.
    "overfit": Recipe(epochs=30, learning_rate=1e-3, weight_decay=0.0, augment=False, optimizer="adam"),
    "long_tailed": Recipe(),
}
"""How `train_checkpoint` can train. ``long_tailed`` is the standard recipe on the benchmark's long-tailed variant."""

TRAINING, HISTORY, LAST = "training.json", "history.jsonl", "best.ckpt"


NETWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "resnet": ("resnet18_32x32", {"width": "width", "depth": "blocks_per_stage", "head": "head"}),
    "mlp": ("mlp", {name: name for name in ("width", "depth", "activation", "head", "image_size")}),
}
"""Small networks: their name in `networks.named`, and which of its arguments each option sets.

``depth`` is the number of blocks in each of the four stages of ``resnet``, and of hidden layers of ``mlp``.
"""


def with_network(benchmark: Benchmark, architecture: str, options: Mapping[str, Any]) -> Benchmark:
    """The benchmark with another network: ``options`` are width, depth, activation and head, as far as they are set.

    Raises PluginError on an unknown architecture, or on an option that it does not have.
    """
    check_known("network", architecture, NETWORKS)
    factory, names = NETWORKS[architecture]
    check_keys(f"network '{architecture}'", options, names)
    arguments = {names[name]: value for name, value in options.items()}
    if factory == benchmark.network:
        arguments = {**benchmark.network_arguments, **arguments}
    build_network(factory, benchmark.num_classes, arguments)  # raises on values that cannot be used
    return replace(benchmark, network=factory, network_arguments=arguments)


def checkpoint_name(epoch: int) -> str:
    """File name of an epoch's checkpoint, as OpenOOD's recorder with ``save_all_models`` writes it."""
    return f"model_epoch{epoch}.ckpt"


def saved_epochs(epochs: int, every: int | None) -> range:
    """The epochs whose checkpoints are kept, beside the last network's: each ``every``-th, None = none."""
    if every is None:
        return range(0)
    check_number("save every", every, above=0, whole=True)
    return range(every, epochs + 1, every)


def missing_checkpoints(directory: Path, seeds: Iterable[int] = SEEDS, epochs: Collection[int] = ()) -> list[str]:
    """Seeds, as ``s0``, whose ``best.ckpt`` or checkpoint of one of the ``epochs`` is not in ``directory``."""
    wanted = [LAST, *map(checkpoint_name, epochs)]
    return [f"s{seed}" for seed in seeds if not all((directory / f"s{seed}" / name).is_file() for name in wanted)]


def train_checkpoint(
    benchmark: Benchmark,
    directory: Path,
    seed: str,
    device: torch.device,
    recipe: Recipe | None = None,
    save_every: int | None = None,
) -> Entry:
    """Train one seed's network (``s0``, ``s1`` ...) on the benchmark's training images; returns its last epoch's entry.

    ``save_every`` also keeps the checkpoints of every so many epochs. A training that was interrupted starts again and
    leaves the same bytes. Raises PluginError if ``directory`` holds another training.
    """
    recipe = recipe or Recipe()
    _describe(benchmark, directory, recipe)
    kept, history = saved_epochs(recipe.epochs, save_every), list[Entry]()

    def save(network: nn.Module, entry: Entry) -> None:
        history.append(entry)
        if entry["epoch"] in kept:
            save_checkpoint(network, directory / seed / checkpoint_name(entry["epoch"]))
            _write_history(directory / seed / HISTORY, history)

    network, history = train(
        lambda: build_benchmark_network(benchmark),
        *training_tensors(benchmark),
        recipe,
        int(seed[1:]),
        device,
        save,
        progress_label=f"train {seed}",
    )
    _write_history(directory / seed / HISTORY, history)
    save_checkpoint(network, directory / seed / LAST)  # comes last: a training that was interrupted lacks it
    return history[-1]


def build_benchmark_network(benchmark: Benchmark) -> nn.Module:
    """The benchmark's own network with random weights."""
    assert benchmark.network is not None
    where = f"benchmark '{benchmark.name}': network"
    return build_named(where, benchmark.network, benchmark.num_classes, benchmark.network_arguments)


def training_tensors(benchmark: Benchmark) -> tuple[Tensor, Tensor]:
    """Images (n, 3, H, W) and labels (n,) of the training list, decoded."""
    source = benchmark.splits[TRAIN]
    assert isinstance(source, ImageList)
    files = source.read()
    items = [files.item(index) for index in range(len(files))]
    return torch.stack([image for image, _ in items]), torch.stack([label for _, label in items])


def check_training(benchmark: Benchmark, directory: Path, recipe: Recipe) -> None:
    """Raise PluginError if ``directory`` says that something else was trained in it."""
    there = read_training(directory)
    if there is None:
        return
    if {**there, "network": FORMER.get(str(there.get("network")), there.get("network"))} != _said(benchmark, recipe):
        raise PluginError(
            f"output '{directory}': holds another training, see {directory / TRAINING}; choose another --output"
        )


def _describe(benchmark: Benchmark, directory: Path, recipe: Recipe) -> None:
    """Write what is trained in ``directory``; as `check_training`."""
    check_training(benchmark, directory, recipe)
    if not (directory / TRAINING).exists():
        write_json(directory / TRAINING, _said(benchmark, recipe))


def _said(benchmark: Benchmark, recipe: Recipe) -> dict[str, Any]:
    """What a ``training.json`` says."""
    return {
        "benchmark": benchmark.name,
        "network": benchmark.network,
        "network_arguments": dict(benchmark.network_arguments),
        "recipe": asdict(recipe),
    }


def read_training(directory: Path) -> Mapping[str, Any] | None:
    """What the training in a directory says of itself, None where nothing does; raises PluginError if it is damaged.

    It is data: a network that it names is one of `networks.named`, or none that this package makes.
    """
    path = directory / TRAINING
    remedy = "move it away"
    try:
        raw = read_json(path, "training", remedy)
    except FileNotFoundError:
        return None
    where = f"training '{path}'"
    if not isinstance(raw, dict):
        raise PluginError(f"{where}: must be a mapping, got {shown(raw)}; {remedy}")
    for key in ("network_arguments", "recipe"):
        if not isinstance(raw.get(key, {}), dict):
            raise PluginError(f"{where}: {key} must be a mapping, got {shown(raw[key])}; {remedy}")
    return raw


def with_trained(benchmark: Benchmark, says: Mapping[str, Any], where: str) -> Benchmark:
    """The benchmark with the network that a training ``says`` it trained; its own where nothing is said.

    Raises PluginError, which begins with ``where``, on a network that data cannot name.
    """
    if "network" not in says:
        return benchmark
    arguments = says.get("network_arguments", {})
    name = check_named(f"{where}: {TRAINING}: network", says["network"], arguments)
    return replace(benchmark, network=name, network_arguments=arguments)


def _write_history(path: Path, history: Sequence[Entry]) -> None:
    write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in history))
