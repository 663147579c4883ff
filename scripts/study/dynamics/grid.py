"""Trains the grid of small networks, logs their trajectories, and writes what becomes of them as CSV files.

Every run is a training by the protocol of arXiv 2604.00230 (Adam, learning rate 1e-3, weight decay 1e-4, cosine;
cross-entropy, then the squared error), in which one condition differs from the base. A run is finished when all its
epochs are logged; started again, the grid goes on with the others. One thread a run, so that workers can share them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from grid_data import CIFAR10_SUBSET, data_sets, open_benchmark
from intervention import Intervention, recovery
from probe import Attack, ProbingMeter
from torch import nn

from nci_plugin import built_in
from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.checks import PluginError
from nci_plugin.config import load_detector
from nci_plugin.dynamics.measure import DETECTORS
from nci_plugin.dynamics.onset import OnsetRule, find_onset
from nci_plugin.dynamics.trajectory import (
    FILE_NAME,
    FN,
    LAST_PHASE,
    Condition,
    Trajectory,
    TrajectoryFile,
    find_trajectories,
    read_trajectory,
)
from nci_plugin.files import locked, write_atomically
from nci_plugin.training.train import Entry, Recipe, train

PROTOCOL = Recipe(
    epochs=300,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=1e-4,
    augment=False,
    optimizer="adam",
    schedule="cosine",
    loss="ce_then_mse",
)
RESNET_EPOCHS = 100
"""Fewer, for the time: a pilot with seed 9 had NC1 at 0.37 after 100 epochs and 0.26 after 300, far from an onset."""

SEEDS = (0, 1, 2)
PIXELS = {"mlp": 8, "resnet": 16}
BASE: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"width": 256, "depth": 5, "activation": "relu", "head": "learned"},
    "resnet": {"width": 8, "depth": 1, "head": "learned"},
}
ATTACKS = tuple(Attack(name, epsilon) for name in ("fgsm", "pgd") for epsilon in (4, 16))
LOGGED = 24
"""Epochs that are logged of a run, about, spaced evenly in their logarithm within each phase."""

INTERVENED = 0.4
"""Share of the last phase after which the interventions come."""

ENDS = (
    *("train_loss", "train_accuracy", "test_accuracy", "weight_norm"),
    *("nc1_quotient", "nc2_etf_error", "nc3_self_duality", "nc4_train", FN),
)
"""What a run's row says of its last network, beside the AUROC."""

RUNS, INTERVENTIONS = "runs", "interventions"


@dataclass(frozen=True)
class Run:
    """One training: its data, architecture with options, recipe and seed; ``factor`` of an intervention or None."""

    data: str
    architecture: str
    options: Mapping[str, Any]
    recipe: Recipe
    seed: int
    probed: bool = False
    factor: float | None = None

    @property
    def conditions(self) -> dict[str, Condition]:
        found = {
            "architecture": self.architecture,
            "data": self.data,
            **self.options,
            "loss": self.recipe.loss,
            "weight_decay": self.recipe.weight_decay,
            "epochs": self.recipe.epochs,
            "seed": self.seed,
        }
        return found if self.factor is None else {**found, "factor": self.factor}

    @property
    def name(self) -> str:
        """Data, architecture and loss, what differs from the base, and the seed."""
        usual = {**BASE[self.architecture], "weight_decay": PROTOCOL.weight_decay}
        differing = [
            f"{name}-{value}" for name, value in self.conditions.items() if name in usual and usual[name] != value
        ]
        factor = [] if self.factor is None else [f"x{self.factor:g}"]
        return "_".join([self.data, self.architecture, self.recipe.loss, *differing, *factor, f"s{self.seed}"])

    def file(self, output: Path) -> Path:
        return output / (RUNS if self.factor is None else INTERVENTIONS) / self.name / FILE_NAME

    @property
    def intervened_at(self) -> int:
        (*before, (_, last)) = self.recipe.phases
        return sum(epochs for _, epochs in before) + max(1, round(INTERVENED * last))

    @property
    def logged(self) -> list[int]:
        """The epochs that are logged; those after an intervention also where it is only compared with."""
        found, start = {0}, 0
        for _, epochs in self.recipe.phases:
            count = max(2, round(LOGGED * (1 if len(self.recipe.phases) == 1 else 0.35 if not start else 0.65)))
            found |= {start + int(each) for each in np.geomspace(1, epochs, count).round()}
            start += epochs
        if self.probed or self.factor is not None:
            after = [self.intervened_at + step for step in (0, 1, 2, 4, 8, 16, 32)]
            found |= {epoch for epoch in after if epoch <= self.recipe.epochs}
        return sorted(found)


def grid() -> list[Run]:
    """The whole grid: one condition varies at a time, and loss with head; the long runs first."""
    mlp: list[Mapping[str, Any]] = [
        *({"depth": depth} for depth in (2, 3, 8)),
        *({"width": width} for width in (64, 128, 512)),
        *({"activation": name} for name in ("gelu", "silu", "tanh")),
        *({"weight_decay": value} for value in (0.0, 1e-5, 1e-3, 1e-2)),
        *({"loss": name} for name in ("mse", "ce", "label_smoothing", "focal")),
        *({"head": "fixed_etf", "loss": name} for name in ("ce_then_mse", "mse", "ce")),
    ]
    resnet: list[Mapping[str, Any]] = [
        *({"depth": depth} for depth in (2, 3)),
        *({"loss": name} for name in ("mse", "ce")),
    ]
    runs = [
        *_cells("digits", "resnet", [{}, *resnet], epochs=RESNET_EPOCHS),
        *_cells("digits", "mlp", [{}, *mlp]),
    ]
    if CIFAR10_SUBSET in data_sets():
        runs = [
            *_cells(CIFAR10_SUBSET, "resnet", [{}], epochs=RESNET_EPOCHS),
            *runs,
            *_cells(CIFAR10_SUBSET, "mlp", [{}]),
        ]
    base = [run for run in runs if run.architecture == "mlp" and run.probed and run.data == "digits"]
    return runs + [replace(run, factor=factor, probed=False) for run in base for factor in (0.5, 2.0)]


def quick_grid() -> list[Run]:
    """A grid of minutes: three cells of the MLP and an intervention, two seeds each."""
    changes = [{"loss": loss, "width": 64, "depth": 3} for loss in ("ce_then_mse", "mse", "ce")]
    runs = list(_cells("digits", "mlp", changes, epochs=30))
    runs = [replace(run, probed=run.recipe.loss == "ce_then_mse") for run in runs if run.seed < 2]
    return runs + [replace(run, factor=2.0, probed=False) for run in runs if run.probed]


def _cells(
    data: str, architecture: str, changes: Sequence[Mapping[str, Any]], epochs: int = PROTOCOL.epochs
) -> Iterator[Run]:
    for change in changes:
        of_recipe = {name: value for name, value in change.items() if name in ("loss", "weight_decay")}
        options = {**BASE[architecture], **{name: value for name, value in change.items() if name not in of_recipe}}
        recipe = replace(PROTOCOL, epochs=epochs, **of_recipe)
        for seed in SEEDS:
            yield Run(data, architecture, options, recipe, seed, probed=not change)


# -------------------------------------------------------------------- one run


@cache
def _meter(data: str, pixels: int, data_root: Path) -> ProbingMeter:
    setups = [load_detector(name) for name in DETECTORS]
    return ProbingMeter(open_benchmark(data, pixels, data_root), setups, attacks=ATTACKS)


def execute(run: Run, output: Path, data_root: Path) -> float:
    """Train a run and log it, unless it is logged already; returns the seconds that it took.

    Epochs that an interrupted run has logged are not measured again: the same training comes by the same networks.
    """
    started = time.perf_counter()
    path = run.file(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = TrajectoryFile(path, run.name, run.conditions)
    if set(run.logged) <= set(file.records):
        return 0.0
    meter = _meter(run.data, PIXELS[run.architecture], data_root)
    benchmark = built_in.with_network(meter.benchmark, run.architecture, run.options)
    images, labels = meter.images[TRAIN].tensors
    intervention = None if run.factor is None else Intervention(run.intervened_at, run.factor, images)

    def log(network: nn.Module, entry: Mapping[str, Any]) -> None:
        epoch = entry["epoch"]
        if epoch not in run.logged or epoch in file.records:
            return
        record = (meter.probed if run.probed else meter)(network, epoch, entry["phase"])
        if intervention is not None and epoch == intervention.epoch:
            done = {name: getattr(intervention, name) for name in ("factor", "layer", "fn_before", "fn_after")}
            record = replace(record, probe={"intervention": done})
        file.add(record)

    def after(network: nn.Module, entry: Entry) -> None:
        if intervention is not None:
            intervention(network, entry)
        log(network, entry)

    def factory() -> nn.Module:
        network = built_in.build_benchmark_network(benchmark)
        log(network, {"epoch": 0, "phase": run.recipe.phases[0][0]})
        return network

    train(factory, images, labels, run.recipe, run.seed, on_epoch=after, progress_label=run.name)
    return time.perf_counter() - started


# -------------------------------------------------------------------- all of them


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients and moments of a collapsed network fall below 1e-38, where a CPU crawls


def execute_all(runs: Sequence[Run], output: Path, data_root: Path, workers: int) -> None:
    """Execute the runs in so many processes; one that fails is named at the end, the others go on."""
    started, failed = time.perf_counter(), []
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker) as pool:
        waiting = {pool.submit(execute, run, output, data_root): run for run in runs}
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                run, error = waiting[done], done.exception()
                said = f"failed: {error}" if error else f"{done.result():.0f} s" if done.result() else "there already"
                failed += [run.name] if error else []
                seconds = time.perf_counter() - started
                print(f"{number}/{len(runs)} {run.name}: {said} ({seconds:.0f} s in all)", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise PluginError(f"{len(failed)} of {len(runs)} runs failed, first '{failed[0]}'; start the grid again")


def write_tables(output: Path) -> None:
    """``grid.csv``, a row a run; ``probe.csv``, a row an attack and epoch; ``interventions.csv``, a row each."""
    runs = [read_trajectory(path) for path in find_trajectories(output / RUNS)]
    tables = {
        "grid.csv": [_run_row(run) for run in runs],
        "probe.csv": [row for run in runs for row in _probe_rows(run)],
        "interventions.csv": list(_intervention_rows(output, runs)),
    }
    for name, rows in tables.items():
        write_atomically(output / name, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))


def _run_row(run: Trajectory) -> dict[str, Any]:
    last = run.records[-1]
    onset = find_onset(run, OnsetRule(phase=LAST_PHASE))
    ends = {
        f"{detector}_{group.replace(' ', '_')}": value
        for detector, by_group in last.auroc.items()
        for group, value in by_group.items()
    }
    return {
        **run.conditions,
        "onset": onset.epoch if onset.observed else None,
        "smallest_nc1": float(np.nanmin(run.series("nc1_quotient"))),
        **{name: run.series(name)[-1] for name in ENDS},
        **ends,
    }


def _probe_rows(run: Trajectory) -> Iterator[dict[str, Any]]:
    for record in run.records:
        for attack, answer in (record.probe or {}).items():
            if attack != "intervention":
                auroc = {f"auroc_{name}": value for name, value in answer.get("auroc", {}).items()}
                numbers = {name: value for name, value in answer.items() if name != "auroc"}
                where = {"run": run.run, "epoch": record.epoch, "phase": record.phase, "attack": attack}
                yield {**where, **numbers, **auroc}


def _intervention_rows(output: Path, controls: Sequence[Trajectory]) -> Iterator[dict[str, Any]]:
    by_conditions = {tuple(sorted(run.conditions.items())): run for run in controls}
    for path in find_trajectories(output / INTERVENTIONS):
        run = read_trajectory(path)
        conditions = dict(run.conditions)
        factor = conditions.pop("factor")
        control = by_conditions.get(tuple(sorted(conditions.items())))
        done = next((record for record in run.records if "intervention" in (record.probe or {})), None)
        if control is None or done is None:
            continue
        said = (done.probe or {})["intervention"]
        without = {record.epoch: record.collapse[FN] for record in control.records}
        for record in run.records:
            reference, fn = without.get(record.epoch), record.collapse[FN]
            if record.epoch > done.epoch and reference is not None and fn is not None:
                yield {
                    **run.conditions,
                    "factor": factor,
                    "at": done.epoch,
                    "fn_before": said["fn_before"],
                    "fn_after": said["fn_after"],
                    "epoch": record.epoch,
                    "fn": fn,
                    "fn_control": reference,
                    "recovery": recovery(said["fn_after"], fn, reference),
                }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="directory of trajectories and tables")
    parser.add_argument("--quick", action="store_true", help="a small grid, in minutes")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where digits is, or is written (data)")
    parser.add_argument("--list", action="store_true", help="only say which runs there are")
    options = parser.parse_args()
    runs = quick_grid() if options.quick else grid()
    if options.list:
        print("\n".join(run.name for run in runs), f"\n{len(runs)} runs")
        return 0
    try:
        with locked(options.output):
            write_digits(options.data_root)
            execute_all(runs, options.output, options.data_root.resolve(), options.workers)
            write_tables(options.output)
    except PluginError as error:
        print(f"grid: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
