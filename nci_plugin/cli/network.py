"""The networks and the benchmark that a command works on: their options, and finding, loading and naming them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nci_plugin.cli import architecture

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nci_plugin.benchmarks.benchmark import Benchmark
    from nci_plugin.evaluation.identity import Identity
    from nci_plugin.features.options import ExtractionOptions
    from nci_plugin.inputs import Inputs, Roots
    from nci_plugin.report.files import ResultsDirectory


MOST_WORKERS = 1024
"""Processes: more than a machine has cores, fewer than it has numbers for."""


def add_options(parser: argparse.ArgumentParser, checkpoints: bool = True) -> None:
    """The options of a command; without ``checkpoints``, of one that takes those as arguments."""
    parser.add_argument(
        "--net", metavar="FACTORY", help="FILE.py:FACTORY, package.module:factory, torchvision:NAME or timm:NAME"
    )
    architecture.add_options(parser)
    parser.set_defaults(ckpt_path=None)
    if checkpoints:
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            "--ckpt-path",
            type=Path,
            metavar="PATH",
            help="a checkpoint, or a directory with s0/best.ckpt, s1/best.ckpt ... (the benchmark's own, in results)",
        )
        where.add_argument("--root", type=Path, metavar="DIR", dest="ckpt_path", help="the same, as OpenOOD names it")
    parser.add_argument("--head", metavar="LAYER", help="name of the last linear layer, if it is not found by itself")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="images and lists (data, of OpenOOD's checkout)")
    parser.add_argument("--csid", nargs="+", metavar="NAME", help="covariate-shifted sets that count, or none (all)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (results/<name>)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (auto)")
    parser.add_argument("--batch-size", type=int, default=200, metavar="N", help="images a batch (200)")
    parser.add_argument(
        "--workers",
        type=number_or_auto,
        default="auto",
        metavar="N",
        help="loader processes, or auto: by the cores (auto)",
    )
    parser.set_defaults(fsood=False, amp="none")


def number_or_auto(text: str) -> int | None:
    """None for ``auto``; argparse names this function where it raises ValueError."""
    return None if text == "auto" else int(text)


def resolve(options: argparse.Namespace) -> torch.device:
    """Check the options that need no data, and resolve ``options.weights``; returns the device.

    ``options.processes`` share the pass, if the command set it.
    """
    from nci_plugin.checks import check_number
    from nci_plugin.features.options import check_amp, resolve_device
    from nci_plugin.features.processes import ALONE

    check_number("--batch-size", options.batch_size, above=0, whole=True, most=2**31)
    check_number("--workers", options.workers or 0, least=0, whole=True, most=MOST_WORKERS)
    options.weights = architecture.resolve(options)
    options.processes = getattr(options, "processes", ALONE)
    device = resolve_device(options.device)
    check_amp(options.amp, device)
    return options.processes.device(device)


def find_one(options: argparse.Namespace, device: torch.device) -> Inputs:
    """What the benchmark ``options.benchmark`` needs, found in the working directory or in OpenOOD's checkout."""
    from nci_plugin.inputs import find_roots

    roots = find_roots(options.benchmark, options.data_root)
    if roots.openood and None in (options.data_root, options.ckpt_path, options.output):
        print(f"OpenOOD: {roots.openood}")
    return find(options.benchmark, roots, options, device)


def find(name: str, roots: Roots, options: argparse.Namespace, device: torch.device) -> Inputs:
    """What a benchmark needs; images and checkpoints of the built-in one are made if missing."""
    from nci_plugin.checks import PluginError
    from nci_plugin.config import load_benchmark
    from nci_plugin.inputs import find_inputs

    weights = options.weights
    benchmark = load_benchmark(name, weights and weights.preprocessing).with_data_root(roots.data)
    if weights is not None:
        weights.check(benchmark.name, benchmark.num_classes)
    if (options.net or benchmark.network) is None:
        raise PluginError(f"benchmark '{benchmark.name}': names no network; pass --net FILE.py:FACTORY")
    if benchmark.built_in is not None:
        _prepare(benchmark, roots, device, with_checkpoints=options.ckpt_path is None)
    return find_inputs(benchmark, roots, weights.fetch if weights else options.ckpt_path, options.csid, options.fsood)


@dataclass(frozen=True)
class Networks:
    """The loaded networks of a run by seed, and where the run writes."""

    inputs: Inputs
    options: argparse.Namespace
    device: torch.device
    factory: str
    by_seed: Mapping[str, nn.Module]
    output: Path

    @cached_property
    def identities(self) -> Mapping[str, Identity]:
        """What the numbers come from, by seed. Every image is read, so ask for it where the output is locked."""
        from nci_plugin.evaluation import identity
        from nci_plugin.networks.factory import factory_source

        options = self.options
        made_by = factory_source(self.factory)
        arguments = {} if options.net else self.inputs.benchmark.network_arguments
        data = identity.data_identity(
            self.inputs.splits, self.output / identity.FOLDER, progress=options.processes.is_first
        )
        return {
            seed: {**identity.network_identity(network, options.amp, made_by, arguments), **data}
            for seed, network in self.by_seed.items()
        }

    def extraction_options(self, seed: str, directory: ResultsDirectory | None = None) -> ExtractionOptions:
        """How the images of a seed pass; before those of the first do, a ``directory`` is opened for all seeds."""
        from nci_plugin import api
        from nci_plugin.features.options import ExtractionOptions, default_workers

        options = self.options
        return ExtractionOptions(
            device=str(self.device),
            batch_size=options.batch_size,
            workers=(
                default_workers(options.processes.on_this_machine)
                if options.workers is None
                else options.workers
            ),
            head=options.head,
            store=api.features_directory(self.output, seed),
            tell=print,
            processes=options.processes,
            amp=options.amp,
            begin=partial(self._open, directory) if directory and seed == next(iter(self.by_seed)) else None,
        )

    def _open(self, directory: ResultsDirectory) -> None:
        with self.options.processes.in_turn():
            directory.open(self.identities)

    def provenance(self, seed: str) -> dict[str, Any]:
        return {
            **self.identities[seed],
            "checkpoint": str(self.inputs.checkpoints[seed]),
            "network_factory": self.factory,
            "data_root": str(self.inputs.roots.data),
        }

    def print_inputs(self) -> None:
        from nci_plugin.networks.checkpoints import unchecked

        checkpoints = self.inputs.checkpoints
        first = next(iter(checkpoints.values()))
        seeds = ", ".join(filter(None, checkpoints))
        print(f"checkpoints: {first.parents[1] / 's*' / first.name} ({seeds})" if seeds else f"checkpoint: {first}")
        for path in checkpoints.values():
            if reason := unchecked(path):
                print(f"{path}: damage within it cannot be noticed ({reason})")
        print("images: " + ", ".join(f"{name} {len(split)}" for name, split in self.inputs.splits.items()))


def load(inputs: Inputs, options: argparse.Namespace, device: torch.device) -> Networks:
    """Build the network of every checkpoint and load its weights."""
    benchmark = inputs.benchmark
    factory = str(options.net or benchmark.network)
    networks = {seed: load_one(benchmark, options, factory, path) for seed, path in inputs.checkpoints.items()}
    name = _run_name(benchmark, inputs.checkpoint_path, options) + (f"_{options.amp}" if options.amp != "none" else "")
    output = options.output or inputs.roots.results / name
    return Networks(inputs, options, device, factory, networks, output)


def device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _prepare(benchmark: Benchmark, roots: Roots, device: torch.device, with_checkpoints: bool) -> None:
    """Make the built-in benchmark's images and checkpoints where they are missing."""
    from nci_plugin import built_in

    if built_in.write_data(roots.data):
        print(f"data: wrote the images and lists of '{benchmark.name}' under {roots.data}")
    directory = roots.results / str(benchmark.checkpoints)
    for seed in built_in.missing_checkpoints(directory) if with_checkpoints else []:
        last = built_in.train_checkpoint(benchmark, directory, seed, device)
        print(
            f"trained {seed}: training accuracy {last['accuracy']:.1f} %, written to {directory / seed / 'best.ckpt'}"
        )


def load_one(benchmark: Benchmark, options: argparse.Namespace, factory: str, checkpoint: Path) -> nn.Module:
    """The network of a factory, with the weights of one checkpoint."""
    from nci_plugin.networks.checkpoints import load_checkpoint
    from nci_plugin.networks.factory import build_network
    from nci_plugin.networks.named import build_named

    if options.weights:
        return options.weights.network()
    if options.net:
        network = build_network(factory, benchmark.num_classes, {})
    else:
        where = f"benchmark '{benchmark.name}': network"
        network = build_named(where, factory, benchmark.num_classes, benchmark.network_arguments)
    if taken := load_checkpoint(network, checkpoint):
        print(f"{checkpoint}: {taken}")
    return network


def _run_name(benchmark: Benchmark, checkpoint_path: Path, options: argparse.Namespace) -> str:
    """The directory of the checkpoints, as in OpenOOD, with the seed for one of them; else the file's name."""
    if options.weights:
        return f"{benchmark.name}_{options.weights.run_name}"
    path = checkpoint_path.resolve()
    if path.is_dir():
        name = path.name
    elif path.stem == "best" and path.parent.name[1:].isdecimal():
        name = f"{path.parents[1].name}_{path.parent.name}"
    else:
        return f"{benchmark.name}_{path.stem}"
    return name if name.startswith(benchmark.name) else f"{benchmark.name}_{name}"
