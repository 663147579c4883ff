"""``nci-ood dynamics``: collapse and detection along training, from epoch checkpoints or logged trajectories."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nci_plugin import api
from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.built_in import read_training
from nci_plugin.checks import NAME_CHARACTERS, PluginError, check_known, check_number, pairs, shown
from nci_plugin.cli.commands import Dynamics
from nci_plugin.cli.network import Job
from nci_plugin.collapse.registry import of_training
from nci_plugin.config import benchmark_names
from nci_plugin.dynamics.analysis import Analysis, analyse, check_names
from nci_plugin.dynamics.checkpoints import CheckpointRun, find_runs, read_history, with_history
from nci_plugin.dynamics.epoch import EpochRecord
from nci_plugin.dynamics.measure import DETECTORS, MEMORY_BYTES, Meter, measure_bank, network_numbers
from nci_plugin.dynamics.onset import OnsetRule
from nci_plugin.dynamics.trajectory import (
    FILE_NAME,
    Trajectory,
    TrajectoryFile,
    find_trajectories,
    read_trajectory,
)
from nci_plugin.evaluation import identify
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.evaluate import training_needed
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.files import digest, locked
from nci_plugin.inputs import Inputs
from nci_plugin.networks.factory import factory_source
from nci_plugin.networks.named import check_named, label
from nci_plugin.progress import progress
from nci_plugin.report import dynamics_files
from nci_plugin.report import dynamics_tables as tables
from nci_plugin.report.dynamics_figures import MANY
from nci_plugin.report.tables import texts
from nci_plugin.report.terminal import say
from nci_plugin.training.losses import LOSSES

FEATURES = ".dynamics-features"
"""Where the features of one checkpoint lie while it is measured: a name that neither ``eval`` nor a user gives."""


def run(options: Dynamics) -> int:
    check_known("metric", options.metric, [metric.name for metric in of_training()])
    rule = OnsetRule(options.metric, options.threshold, not options.above, options.sustained, options.phase)
    conditions = _conditions(options.condition)
    logged = {path: find_trajectories(path) for path in options.paths}
    runs = [read_trajectory(file) for files in logged.values() for file in files]
    to_measure = find_runs([path for path in options.paths if not logged.get(path)])
    check_names([*(each.run for each in runs), *(each.name for each in to_measure)])
    output = options.data.output or Path("results") / f"{options.paths[0].resolve().name}_dynamics"
    with locked(output):
        for each in runs:
            print(f"{each.run}: {len(each.records)} logged epochs")
        for path in (path for path, files in logged.items() if files):
            with suppress(PluginError):  # it has no checkpoints
                for run in find_runs([path]):
                    say(f"{run.name}: {len(run.files)} checkpoints are not measured, '{path}' has what was logged")
        runs = [each for each in runs if each.records]  # one that just began has none
        if to_measure:
            runs += _measure(to_measure, conditions, options, output)
        if not runs:
            raise PluginError(f"trajectories in {', '.join(map(str, options.paths))}: log no epoch yet; log one")
        _report(analyse(runs, rule), output)
    return 0


def _conditions(given: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as a mapping, numbers as numbers."""
    found: dict[str, Any] = {}
    for name, value in pairs("--condition", given).items():
        try:
            found[name] = float(value) if any(mark in value for mark in ".e") else int(value)
        except ValueError:
            found[name] = value
        _check_condition(f"--condition '{name}={value}'", name, found[name])
    return found


def _check_condition(where: str, name: str, value: Any) -> None:
    """Raise unless a table can hold the condition: a short name, and a short text or a finite number."""
    for text in (name, value):
        if isinstance(text, str) and not (text.isprintable() and len(text) <= NAME_CHARACTERS):
            raise PluginError(
                f"{where}: must be at most {NAME_CHARACTERS} printable characters, got {shown(text)}; correct it"
            )
    if not isinstance(value, (str, bool)):
        check_number(f"{where}: {name}", value)


# -------------------------------------------------------------------- what a training says of itself


@dataclass(frozen=True)
class Trained:
    """A run of checkpoints, what its ``training.json`` says, and the network that it names unless the user does."""

    run: CheckpointRun
    says: Mapping[str, Any]
    network: tuple[str, Mapping[str, Any]] | None

    @classmethod
    def of(cls, run: CheckpointRun, user_names_network: bool) -> Trained:
        says = read_training(run.directory) or read_training(run.directory.parent) or {}
        network = None
        if "network" in says and not user_names_network:
            arguments = says.get("network_arguments", {})
            network = check_named(f"run '{run.name}': training.json: network", says["network"], arguments), arguments
        return cls(run, says, network)

    def benchmark(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the network that was trained."""
        if self.network is None:
            return benchmark
        name, arguments = self.network
        return replace(benchmark, network=name, network_arguments=arguments)

    def conditions(self, benchmark: Benchmark, factory: str) -> dict[str, Any]:
        """Architecture and data, and all that the training says of network and recipe; ``benchmark`` is its own."""
        arguments = benchmark.network_arguments if self.says else {}
        said = {**arguments, **self.says.get("recipe", {})}
        plain = {name: value for name, value in said.items() if isinstance(value, (str, int, float))}
        for name, value in plain.items():
            _check_condition("training.json: recipe", name, value)
        seed = {} if self.run.seed is None else {"seed": self.run.seed}
        return {"architecture": label(factory), "data": benchmark.name, **plain, **seed}

    def loss(self, entry: Mapping[str, Any] | None) -> str:
        """The loss that the epoch was trained with, cross-entropy where nothing says so."""
        named = [str((entry or {}).get("phase")), str(self.says.get("recipe", {}).get("loss"))]
        return next((name for name in named if name in LOSSES), "ce")


def _said_benchmark(trainings: Sequence[Trained]) -> str:
    said = [training.says["benchmark"] for training in trainings if "benchmark" in training.says]
    if not said or any(name != said[0] for name in said):
        names = ", ".join(sorted({shown(name) for name in said}))
        came = f"the trainings say {names}" if said else "the trainings do not say"
        raise PluginError(f"--benchmark: must be one for all checkpoints, {came}; name it")
    if said[0] not in benchmark_names():  # a path in a file of data is not followed
        raise PluginError(
            f"--benchmark: the training says {shown(said[0])}, which does not ship; name your YAML file yourself"
        )
    return str(said[0])


# -------------------------------------------------------------------- measuring


def _measure(
    runs: Sequence[CheckpointRun], conditions: Mapping[str, Any], options: Dynamics, output: Path
) -> list[Trajectory]:
    """Measure every checkpoint that was not measured before."""
    trainings = [Trained.of(run, bool(options.network.net)) for run in runs]
    histories = [read_history(run.directory) for run in runs]
    benchmark = options.benchmark or _said_benchmark(trainings)
    setups = api.resolve_detectors(options.detectors or DETECTORS)
    first = next(iter(runs[0].files.values()))
    job = Job.of(benchmark, replace(options.network, ckpt_path=first), options.data, options.passing)
    print(f"device: {job.device_name}")
    inputs = job.find_one(benchmark)
    inputs.benchmark.check_has(TRAIN, "collapse is measured on it")
    if not inputs.benchmark.has_ood:
        print(f"benchmark '{inputs.benchmark.name}': no OOD set, so AUROC along training is left out")
    images = identify.data_digest(inputs.splits, output / "images")
    methods = {setup.name: identify.method_digest(setup) for setup in setups}
    measure: Callable[[nn.Module, int, str], EpochRecord] | None = None
    found = []
    with progress("dynamics", "checkpoint", sum(len(run.files) for run in runs)) as bar:
        for run, training, history in zip(runs, trainings, histories):
            trained = training.benchmark(inputs.benchmark)
            factory, arguments = job.factory(trained), job.arguments(trained)
            described = {**training.conditions(trained, factory), **conditions}
            file = TrajectoryFile(output / run.name / FILE_NAME, run.name, described)
            gone = ", ".join(str(epoch) for epoch in sorted(file.records) if epoch not in run.files)
            if gone:
                say(f"{run.name}: there is no checkpoint any more of epochs {gone}, which stand as they were measured")
            new = 0
            for epoch, path in run.files.items():
                bar.set_postfix_str(f"{run.name} epoch {epoch}")
                network = job.build(trained, path)
                numbers = network_numbers(network)
                code = identify.code_digest(network, factory_source(factory), arguments)
                data = digest(images, code, options.network.head or "")
                there = file.records.get(epoch, EpochRecord(epoch))
                if gone and there.weights not in ("", numbers["weights"]):
                    raise PluginError(
                        f"output '{file.path}': holds epochs {gone} of another training, whose weights after"
                        f" epoch {epoch} were others; choose another --output, or move it away"
                    )
                known = (there.weights, there.data) == (numbers["weights"], data)
                if not known or not methods.items() <= there.methods.items():
                    measure = measure or _meter(inputs, setups, job, output)
                    entry = history.get(epoch)
                    record = measure(network, epoch, training.loss(entry))
                    file.add(with_history(replace(record, **numbers, data=data, methods=methods), entry))
                    new += 1
                bar.update()
            print(f"{run.name}: {len(run.files)} checkpoints, {new} measured now")
            found.append(file.trajectory)
    return found


def _meter(
    inputs: Inputs, setups: Sequence[Contestant], job: Job, output: Path
) -> Callable[[nn.Module, int, str], EpochRecord]:
    """What measures a network after an epoch: from decoded images if they fit in memory, else from their files."""
    preprocessing, head, batch_size = inputs.benchmark.preprocessing, job.network.head, job.passing.batch_size
    size = preprocessing.img_size if preprocessing else None
    images = sum(len(split) for split in inputs.splits.values())
    if size and 12 * size**2 * images <= MEMORY_BYTES and not head:
        return Meter(inputs.benchmark, setups, job.device, batch_size)

    def measure(network: nn.Module, epoch: int, loss: str) -> EpochRecord:
        store = output / FEATURES
        shutil.rmtree(store, ignore_errors=True)  # what a killed run left
        passing = ExtractionOptions(str(job.device), batch_size, job.workers, head, store, tell=None)
        needed = training_needed(setups) | {FitsOn.BANK, FitsOn.STATISTICS}
        bank = extract(network, inputs.benchmark, needed, passing, inputs.splits)
        record = measure_bank(bank, inputs.benchmark, setups, epoch, loss)
        del bank  # it maps the files
        shutil.rmtree(store, ignore_errors=True)
        return record

    return measure


# -------------------------------------------------------------------- reporting


def _report(analysis: Analysis, output: Path) -> None:
    shown_runs = analysis.runs if len(analysis.runs) < MANY else ()
    by_epoch = [table for run in shown_runs for table in (tables.epoch_table(run), tables.auroc_table(run))]
    shown = [table for table in [*by_epoch, *tables.analysis_tables(analysis)] if table is not None]
    for text in texts(shown):
        print(f"\n{text}")
    dynamics_files.write_analysis(analysis, output)
    say(f"\nwritten to {output}: {', '.join([*dynamics_files.draw(analysis, output), 'dynamics.json'])}")
