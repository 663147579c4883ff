"""``nci-ood dynamics``: collapse and detection along training, from epoch checkpoints or logged trajectories."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nci_plugin.cli import network

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nci_plugin.dynamics.analysis import Analysis
    from nci_plugin.dynamics.checkpoints import CheckpointRun
    from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory
    from nci_plugin.evaluation.contestant import Contestant
    from nci_plugin.inputs import Inputs

FEATURES = ".dynamics-features"
"""Where the features of one checkpoint lie while it is measured: a name that neither ``eval`` nor a user gives."""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "dynamics",
        help="follow collapse and detection along training",
        description="Measure collapse and OOD detection at the epoch checkpoints of trainings, and find the onset of"
        " collapse and, with several runs, what foretells it.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="CHECKPOINTS",
        help="directories of epoch checkpoints (epoch-10_....ckpt, epoch_010.pth; s0, s1 ... in one are runs), files of"
        " one run, or directories with trajectory.jsonl, of which nothing is measured",
    )
    parser.add_argument(
        "--benchmark", metavar="BENCHMARK", help="a name or a YAML file (what the training says it was trained on)"
    )
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="(nci, pscore, feature_norm, msp and neco)")
    parser.add_argument(
        "--condition", nargs="+", default=[], metavar="NAME=VALUE", help="conditions of the runs, e.g. depth=4"
    )
    parser.add_argument("--metric", default="nc1_quotient", metavar="NAME", help="of the onset (nc1_quotient)")
    parser.add_argument("--threshold", type=float, default=0.01, metavar="X", help="of the onset (0.01)")
    parser.add_argument("--above", action="store_true", help="the metric rises above the threshold (falls below)")
    parser.add_argument("--sustained", type=int, default=3, metavar="N", help="for so many logged epochs (3)")
    parser.add_argument(
        "--phase", default="last", metavar="NAME", help="of the training, in which the onset is looked for (last)"
    )
    network.add_options(parser, checkpoints=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.checks import PluginError, check_known
    from nci_plugin.dynamics.analysis import analyse
    from nci_plugin.dynamics.checkpoints import find_runs
    from nci_plugin.dynamics.measure import NUMBERS
    from nci_plugin.dynamics.onset import OnsetRule
    from nci_plugin.dynamics.trajectory import NC4_TRAIN, find_trajectories, read_trajectory
    from nci_plugin.files import locked

    check_known("metric", options.metric, (*NUMBERS, NC4_TRAIN))
    rule = OnsetRule(options.metric, options.threshold, not options.above, options.sustained, options.phase)
    conditions = _conditions(options.condition)
    logged = {path: find_trajectories(path) for path in options.paths if path.is_dir()}
    runs = [read_trajectory(file) for files in logged.values() for file in files]
    to_measure = find_runs([path for path in options.paths if not logged.get(path)])
    names = [*(each.run for each in runs), *(each.name for each in to_measure)]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise PluginError(f"run '{min(repeated)}': there are two of that name; rename a directory, or pass one of them")
    output = options.output or Path("results") / f"{options.paths[0].resolve().name}_dynamics"
    with locked(output):
        for each in runs:
            print(f"{each.run}: {len(each.records)} logged epochs")
        if to_measure:
            runs += _measure(to_measure, conditions, options, output)
        _report(analyse(runs, rule), output)
    return 0


def _conditions(given: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as a mapping, numbers as numbers."""
    from nci_plugin.checks import PluginError

    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name and sign and value) or name in found:
            raise PluginError(f"--condition '{text}': must be NAME=VALUE, e.g. depth=4, each once; correct it")
        try:
            found[name] = float(value) if any(mark in value for mark in ".e") else int(value)
        except ValueError:
            found[name] = value
        _check_condition(f"--condition '{text}'", name, found[name])
    return found


def _check_condition(where: str, name: str, value: Any) -> None:
    """Raise unless a table can hold the condition: a short name, and a short text or a finite number."""
    from nci_plugin.checks import NAME_CHARACTERS, PluginError, check_number, shown

    for text in (name, value):
        if isinstance(text, str) and not (text.isprintable() and len(text) <= NAME_CHARACTERS):
            raise PluginError(
                f"{where}: must be at most {NAME_CHARACTERS} printable characters, got {shown(text)}; correct it"
            )
    if not isinstance(value, (str, bool)):
        check_number(f"{where}: {name}", value)


# -------------------------------------------------------------------- measuring


def _measure(
    runs: Sequence[CheckpointRun], conditions: Mapping[str, Any], options: argparse.Namespace, output: Path
) -> list[Trajectory]:
    """Measure every checkpoint that was not measured before."""
    from tqdm import tqdm

    from nci_plugin import api
    from nci_plugin.benchmarks.benchmark import TRAIN
    from nci_plugin.built_in import read_training
    from nci_plugin.checks import PluginError
    from nci_plugin.dynamics.checkpoints import read_history, with_history
    from nci_plugin.dynamics.measure import DETECTORS, network_numbers
    from nci_plugin.dynamics.trajectory import FILE_NAME, TrajectoryFile
    from nci_plugin.evaluation import identity
    from nci_plugin.files import digest
    from nci_plugin.networks.factory import factory_source

    trainings = {run.name: read_training(run.directory) or read_training(run.directory.parent) or {} for run in runs}
    networks = {name: _said_network(said, options, f"run '{name}': training.json") for name, said in trainings.items()}
    histories = {run.name: read_history(run.directory) for run in runs}
    options.benchmark = options.benchmark or _said_benchmark(trainings)
    options.ckpt_path = next(iter(runs[0].files.values()))
    setups = api.resolve_detectors(options.detectors or DETECTORS)
    device = network.resolve(options)
    print(f"device: {network.device_name(device)}")
    inputs = network.find_one(options, device)
    if TRAIN not in inputs.splits:
        raise PluginError(f"benchmark '{inputs.benchmark.name}': collapse is measured on '{TRAIN}', which is missing")
    if not inputs.benchmark.has_ood:
        print(f"benchmark '{inputs.benchmark.name}': no OOD set, so AUROC along training is left out")
    images = identity.data_digest(inputs.splits, output / "images")
    configured = _configured(options.detectors or ())
    measure: Callable[..., EpochRecord] | None = None
    found = []
    with tqdm(total=sum(len(run.files) for run in runs), desc="dynamics", unit="checkpoint", disable=None) as bar:
        for run in runs:
            said = _of_training(inputs, networks[run.name])
            factory = str(options.net or said.benchmark.network)
            file = TrajectoryFile(
                output / run.name / FILE_NAME,
                run.name,
                {**_described(said, factory, trainings[run.name], run.seed), **conditions},
            )
            new = 0
            for epoch, path in run.files.items():
                bar.set_postfix_str(f"{run.name} epoch {epoch}")
                each = network.load_one(said.benchmark, options, factory, path)
                numbers = network_numbers(each)
                arguments = {} if options.net else said.benchmark.network_arguments
                code = identity.code_digest(each, factory_source(factory), arguments)
                data = digest(images, code, options.head or "", *configured)
                there = file.records.get(epoch)
                known = there is not None and (there.weights, there.data) == (numbers["weights"], data)
                if not known or not {setup.name for setup in setups} <= set(there.auroc if there else ()):
                    measure = measure or _meter(inputs, setups, options, device, output)
                    entry = histories[run.name].get(epoch)
                    record = replace(measure(each, epoch, _loss(entry, trainings[run.name])), **numbers, data=data)
                    file.add(with_history(record, entry))
                    new += 1
                bar.update()
            print(f"{run.name}: {len(run.files)} checkpoints, {new} measured now")
            found.append(file.trajectory)
    return found


def _configured(detectors: Sequence[str]) -> list[str]:
    """The detectors that are given as YAML files, with their values; those named by name have the shipped ones."""
    from nci_plugin import api

    setups = api.resolve_detectors([name for name in detectors if name.endswith((".yml", ".yaml"))])
    return sorted(repr((each.name, dict(each.configured), dict(each.sweep))) for each in setups)


def _said_benchmark(trainings: Mapping[str, Mapping[str, Any]]) -> str:
    from nci_plugin.checks import PluginError, shown
    from nci_plugin.config import benchmark_names

    said = [training["benchmark"] for training in trainings.values() if "benchmark" in training]
    if not said or any(name != said[0] for name in said):
        names = ", ".join(sorted({shown(name) for name in said}))
        came = f"the trainings say {names}" if said else "the trainings do not say"
        raise PluginError(f"--benchmark: must be one for all checkpoints, {came}; name it")
    if said[0] not in benchmark_names():  # a path in a file of data is not followed
        raise PluginError(
            f"--benchmark: the training says {shown(said[0])}, which does not ship; name your YAML file yourself"
        )
    return said[0]


def _said_network(
    training: Mapping[str, Any], options: argparse.Namespace, where: str
) -> tuple[str, Mapping[str, Any]] | None:
    """The network that a training says it trained, and its arguments, unless the user names one."""
    from nci_plugin.networks.named import check_named

    if options.net or "network" not in training:
        return None
    arguments = training.get("network_arguments", {})
    return check_named(f"{where}: network", training["network"], arguments), arguments


def _of_training(inputs: Inputs, network: tuple[str, Mapping[str, Any]] | None) -> Inputs:
    """The inputs with the network that the training says it trained."""
    if network is None:
        return inputs
    name, arguments = network
    return replace(inputs, benchmark=replace(inputs.benchmark, network=name, network_arguments=arguments))


def _described(inputs: Inputs, factory: str, training: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """Conditions of a run: its architecture and data, and all that its training says of network and recipe."""
    from nci_plugin.networks.named import label

    recipe = training.get("recipe", {})
    arguments = inputs.benchmark.network_arguments if training else {}
    plain = {name: value for name, value in {**arguments, **recipe}.items() if isinstance(value, (str, int, float))}
    for name, value in plain.items():
        _check_condition("training.json: recipe", name, value)
    described = {"architecture": label(factory), "data": inputs.benchmark.name, **plain}
    return described if seed is None else {**described, "seed": seed}


def _loss(entry: Mapping[str, Any] | None, training: Mapping[str, Any]) -> str:
    """The loss that the epoch was trained with, cross-entropy where nothing says so."""
    from nci_plugin.training.losses import LOSSES

    named = [str((entry or {}).get("phase")), str(training.get("recipe", {}).get("loss"))]
    return next((name for name in named if name in LOSSES), "ce")


def _meter(
    inputs: Inputs, setups: Sequence[Contestant], options: argparse.Namespace, device: torch.device, output: Path
) -> Callable[[nn.Module, int, str], EpochRecord]:
    """What measures a network after an epoch: from decoded images if they fit in memory, else from their files."""
    from nci_plugin.dynamics.measure import MEMORY_BYTES, Meter, measure_bank
    from nci_plugin.evaluation.evaluate import training_needed
    from nci_plugin.features.bank import FitsOn
    from nci_plugin.features.extract import extract
    from nci_plugin.features.options import ExtractionOptions, default_workers

    preprocessing = inputs.benchmark.preprocessing
    size = preprocessing.img_size if preprocessing else None
    images = sum(len(split) for split in inputs.splits.values())
    if size and 12 * size**2 * images <= MEMORY_BYTES and options.amp == "none" and not options.head:
        return Meter(inputs.benchmark, setups, device, options.batch_size)

    def measure(each: nn.Module, epoch: int, loss: str) -> EpochRecord:
        store = output / FEATURES
        shutil.rmtree(store, ignore_errors=True)  # what a killed run left
        workers = default_workers() if options.workers is None else options.workers
        passing = ExtractionOptions(
            str(device), options.batch_size, workers, options.head, store, tell=None, amp=options.amp
        )
        needed = training_needed(setups) | {FitsOn.BANK, FitsOn.STATISTICS}
        bank = extract(each, inputs.benchmark, needed, passing, inputs.splits)
        record = measure_bank(bank, inputs.benchmark, setups, epoch, loss)
        del bank  # it maps the files
        shutil.rmtree(store, ignore_errors=True)
        return record

    return measure


# -------------------------------------------------------------------- reporting


def _report(analysis: Analysis, output: Path) -> None:
    from nci_plugin.report import dynamics_tables as tables
    from nci_plugin.report.dynamics_figures import MANY
    from nci_plugin.report.dynamics_files import draw, write_analysis

    shown = analysis.runs if len(analysis.runs) < MANY else ()
    by_epoch = [table for run in shown for table in (tables.epoch_table(run), tables.auroc_table(run))]
    for table in [*by_epoch, *tables.analysis_tables(analysis)]:
        if table is not None:
            print(f"\n{table.text()}")
    write_analysis(analysis, output)
    print(f"\nwritten to {output}: {', '.join([*draw(analysis, output), 'dynamics.json'])}")
