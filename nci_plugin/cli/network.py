"""The networks and the benchmark that a command works on: finding, loading and naming them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nci_plugin import api, built_in
from nci_plugin.adapters.openood.roots import Roots, find_roots
from nci_plugin.benchmarks import digits
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.checks import PluginError, check_number
from nci_plugin.cli.groups import Data, Network, Pass, Steps
from nci_plugin.config import benchmark_names, load_benchmark
from nci_plugin.deploy import preprocessing
from nci_plugin.evaluation import identify, identity
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.evaluation import Evaluation
from nci_plugin.features.options import ExtractionOptions, check_amp, default_workers, resolve_device
from nci_plugin.features.processes import ALONE, Processes
from nci_plugin.inputs import Inputs, find_inputs, folder_benchmark
from nci_plugin.networks.checkpoints import load_checkpoint, unchecked
from nci_plugin.networks.factory import build_network, factory_source
from nci_plugin.networks.pretrained import DEFAULT_ARCH, TorchvisionWeights, torchvision_name
from nci_plugin.report.terminal import say

ALL = "all"
"""The BENCHMARK that is every one of OpenOOD's."""

MOST_WORKERS = 1024
"""Processes: more than a machine has cores, fewer than it has numbers for."""

CONFLICTS = (("--arch", "--net"), ("--tvs-pretrained", "--net"), ("--tvs-pretrained", "--ckpt-path"))


@dataclass(frozen=True)
class Job:
    """What a command was asked to do, checked as far as that goes without data; ``--arch`` became ``network.net``.

    ``weights`` are torchvision's, if they were asked for; ``processes`` share the pass.
    """

    network: Network
    data: Data
    passing: Pass
    device: torch.device
    weights: TorchvisionWeights | None = None
    processes: Processes = ALONE

    @classmethod
    def of(
        cls, benchmark: str | None, network: Network, data: Data, passing: Pass, processes: Processes = ALONE
    ) -> Job:
        """Raises PluginError on options that cannot be used, or that do not go together."""
        check_number("--batch-size", passing.batch_size, above=0, whole=True, most=2**31)
        check_number("--workers", passing.workers or 0, least=0, whole=True, most=MOST_WORKERS)
        network, weights = _resolve_architecture(network, benchmark)
        device = resolve_device(passing.device)
        check_amp(passing.amp, device)
        return cls(network, data, passing, processes.device(device), weights, processes)

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return f"{self.device} ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else str(self.device)

    @property
    def workers(self) -> int:
        return default_workers(self.processes.on_this_machine) if self.passing.workers is None else self.passing.workers

    def find_one(self, name: str) -> Inputs:
        """What a benchmark needs, found in the working directory or in OpenOOD's checkout."""
        roots = find_roots(name, self.data.data_root)
        if roots.openood and None in (self.data.data_root, self.network.ckpt_path, self.data.output):
            print(f"OpenOOD: {roots.openood}")
        return self.find(name, roots)

    def find(self, name: str, roots: Roots) -> Inputs:
        """What a benchmark needs; images and checkpoints of the built-in one are made if missing."""
        weights, checkpoint = self.weights, self.network.ckpt_path
        if name not in benchmark_names() and Path(name).is_dir():
            benchmark = folder_benchmark(Path(name), known_steps(f"folder '{name}'", stated(self.data.steps, weights)))
        else:
            if self.data.steps != Steps():
                raise PluginError(f"benchmark '{name}': has its own preprocessing; leave --mean and such out")
            benchmark = load_benchmark(name, preprocessing.stated(weights.entry) if weights else None)
            benchmark = benchmark.with_data_root(roots.data)
        if weights is not None:
            weights.check(benchmark.name, benchmark.num_classes)
        if (self.network.net or self.as_trained(benchmark).network) is None:
            raise PluginError(f"benchmark '{benchmark.name}': names no network; pass --net FILE.py:FACTORY")
        if benchmark.built_in is not None:
            _make_built_in(benchmark, roots, self.device, with_checkpoints=checkpoint is None)
        given = weights.fetch if weights else checkpoint
        shown = self.processes.is_first
        return find_inputs(benchmark, roots, given, self.data.csid, self.data.fsood, progress=shown)

    def as_trained(self, benchmark: Benchmark) -> Benchmark:
        """A benchmark with the network that ``nci-ood train`` trained, unless it or the user names another one."""
        path = self.network.ckpt_path
        if path is None or self.network.net or (benchmark.network and benchmark.built_in is None):
            return benchmark
        directories = [path] if path.is_dir() else list(path.absolute().parents)[:2]
        says = next(filter(None, map(built_in.read_training, directories)), {})
        return built_in.with_trained(benchmark, says, f"checkpoints '{path}'")

    def factory(self, benchmark: Benchmark) -> str:
        return str(self.network.net or benchmark.network)

    def arguments(self, benchmark: Benchmark) -> Mapping[str, Any]:
        """Of the factory: the user's own is called with the number of classes alone."""
        return {} if self.network.net else benchmark.network_arguments

    def build(self, benchmark: Benchmark, checkpoint: Path) -> nn.Module:
        """The network, with the weights of one checkpoint."""
        if self.weights:
            return self.weights.network()
        if self.network.net:
            network = build_network(self.network.net, benchmark.num_classes, {})
        else:
            network = built_in.build_benchmark_network(benchmark)
        if taken := load_checkpoint(network, checkpoint):
            say(f"{checkpoint}: {taken}")
        return network

    def load(self, inputs: Inputs) -> Networks:
        """The network of every checkpoint, with its weights."""
        inputs = replace(inputs, benchmark=self.as_trained(inputs.benchmark))
        by_seed = {seed: self.build(inputs.benchmark, path) for seed, path in inputs.checkpoints.items()}
        return Networks(self, inputs, by_seed, self.data.output or inputs.roots.results / self._run_name(inputs))

    def _run_name(self, inputs: Inputs) -> str:
        """The directory of the checkpoints, as in OpenOOD, with the seed for one of them; else the file's name."""
        benchmark, path = inputs.benchmark.name, inputs.checkpoint_path.resolve()
        if self.weights:
            name = f"{benchmark}_{self.weights.run_name}"
        elif path.is_dir():
            name = path.name
        elif path.stem == "best" and path.parent.name[1:].isdecimal():
            name = f"{path.parents[1].name}_{path.parent.name}"
        else:
            name = f"{benchmark}_{path.stem}"
        amp = "" if self.passing.amp == "none" else f"_{self.passing.amp}"
        return f"{name if name.startswith(benchmark) else f'{benchmark}_{name}'}{amp}"


@dataclass(frozen=True)
class Networks:
    """The loaded networks of a job by seed, and where it writes."""

    job: Job
    inputs: Inputs
    by_seed: Mapping[str, nn.Module]
    output: Path
    said: set[str] = field(default_factory=set)

    @cached_property
    def identities(self) -> Mapping[str, identity.Identity]:
        """What the numbers come from, by seed. Every image is read, so ask for it where the output is locked."""
        job, benchmark = self.job, self.inputs.benchmark
        made_by = factory_source(job.factory(benchmark))
        folder = self.output / identity.FOLDER
        data = identify.data_identity(self.inputs.splits, folder, progress=job.processes.is_first)
        return {
            seed: {
                **identify.network_identity(network, job.passing.amp, made_by, job.arguments(benchmark)),
                **data,
            }
            for seed, network in self.by_seed.items()
        }

    def evaluate(self, seed: str, setups: Sequence[Contestant], directory: ResultsDirectory) -> Evaluation:
        """Pass the images through one seed's network, score every detector, and store both (see `run_network`)."""
        options, provenance = self.extraction_options(seed, directory), partial(self.provenance, seed)
        benchmark, splits = self.inputs.benchmark, self.inputs.splits
        return api.run_network(self.by_seed[seed], benchmark, setups, splits, options, provenance, directory, seed)

    def extraction_options(self, seed: str, directory: ResultsDirectory | None = None) -> ExtractionOptions:
        """How the images of a seed pass; before those of the first do, a ``directory`` is opened for all seeds."""
        job = self.job
        return ExtractionOptions(
            device=str(job.device),
            batch_size=job.passing.batch_size,
            workers=job.workers,
            head=job.network.head,
            store=api.features_directory(self.output, seed),
            tell=self._say_once,
            processes=job.processes,
            amp=job.passing.amp,
            begin=partial(self._open, directory) if directory and seed == next(iter(self.by_seed)) else None,
        )

    def _say_once(self, text: str) -> None:
        """Say what holds for every seed for the first of them; what comes after a semicolon changes meanwhile."""
        if text.partition(";")[0] not in self.said:
            say(text)
        self.said.add(text.partition(";")[0])

    def _open(self, directory: ResultsDirectory) -> None:
        with self.job.processes.in_turn():
            directory.open(self.identities)

    def provenance(self, seed: str) -> dict[str, Any]:
        return {
            **self.identities[seed],
            "checkpoint": str(self.inputs.checkpoints[seed]),
            "network_factory": self.job.factory(self.inputs.benchmark),
            "data_root": str(self.inputs.roots.data),
        }

    def print_inputs(self) -> None:
        checkpoints = self.inputs.checkpoints
        first = next(iter(checkpoints.values()))
        seeds = ", ".join(filter(None, checkpoints))
        say(f"checkpoints: {first.parents[1] / 's*' / first.name} ({seeds})" if seeds else f"checkpoint: {first}")
        for path in checkpoints.values():
            if reason := unchecked(path):
                say(f"{path}: damage within it cannot be noticed ({reason})")
        say("images: " + ", ".join(f"{name} {len(split)}" for name, split in self.inputs.splits.items()))


def stated(steps: Steps, weights: TorchvisionWeights | None) -> Preprocessing | None:
    """The preprocessing that options or torchvision's weights state; raises PluginError where it is half a one."""
    if steps == Steps():
        return preprocessing.stated(weights.entry) if weights else None
    if steps.mean is None or steps.std is None:
        raise PluginError("--mean and --std: must be given where the preprocessing is; as in the network's test")
    made = Preprocessing(steps.pre_size, steps.img_size, (steps.mean, steps.std), steps.interpolation)
    made.check("preprocessing")
    return made


def known_steps(where: str, steps: Preprocessing | None) -> Preprocessing:
    """The preprocessing of image files; raises PluginError, which begins with ``where``, where nobody says it."""
    if steps is None:
        raise PluginError(
            f"{where}: how its images become the network's input is not known; pass --mean and --std, with"
            " --pre-size and --img-size, as in the network's test"
        )
    return steps


def _resolve_architecture(network: Network, benchmark: str | None) -> tuple[Network, TorchvisionWeights | None]:
    """The network that ``--arch`` names, and torchvision's weights, if they are asked for.

    Raises PluginError on options that do not go together.
    """
    for flags in CONFLICTS:
        if all(getattr(network, flag[2:].replace("-", "_")) for flag in flags):
            raise PluginError(f"{' and '.join(flags)}: cannot be given together; leave one of them out")
    if network.tvs_version and not network.tvs_pretrained:
        raise PluginError("--tvs-version: is the version of torchvision's weights; pass --tvs-pretrained too")
    if not network.arch and not network.tvs_pretrained:
        return network, None
    arch = network.arch or DEFAULT_ARCH
    if benchmark in (None, ALL):
        raise PluginError(f"--arch {arch}: cannot hold for all benchmarks; name one, e.g. imagenet")
    named = replace(network, net=f"torchvision:{torchvision_name(arch)}")
    if network.tvs_pretrained:
        return named, TorchvisionWeights.of(arch, network.tvs_version or 1)
    if network.ckpt_path is None:
        raise PluginError(f"--arch {arch}: needs weights; pass --ckpt-path, or --tvs-pretrained for torchvision's")
    return named, None


def _make_built_in(benchmark: Benchmark, roots: Roots, device: torch.device, with_checkpoints: bool) -> None:
    """Make the built-in benchmark's images and checkpoints where they are missing."""
    if digits.write_digits(roots.data):
        say(f"data: wrote the images and lists of '{benchmark.name}' under {roots.data}")
    directory = roots.results / str(benchmark.checkpoints)
    for seed in built_in.missing_checkpoints(directory) if with_checkpoints else []:
        last = built_in.train_checkpoint(benchmark, directory, seed, device)
        say(f"trained {seed}: training accuracy {last['accuracy']:.1f} %, written to {directory / seed / 'best.ckpt'}")
