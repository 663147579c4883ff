"""The options of the commands beside an evaluation: trainings, OpenOOD's scripts, and what is installed."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, dataclass
from pathlib import Path

from nci_plugin.cli.groups import DEVICE
from nci_plugin.cli.options import argument, command, option


@command("train", "train the checkpoints of a built-in benchmark")
@dataclass(frozen=True)
class Train:
    """Train the networks s0, s1, s2 of a built-in benchmark; those that are there stay."""

    benchmark: str = argument("BENCHMARK", "digits or digits_lt")
    regime: str = option(
        "standard",
        "standard; overfit: Adam without augmentation or weight decay, to zero training error; or long_tailed:"
        " standard, on digits_lt (standard)",
        "NAME",
    )
    loss: str | None = option(
        None, "ce, mse, ce_then_mse (40 %% and 60 %% of the epochs), label_smoothing or focal (ce)", "NAME"
    )
    network: str = option("resnet", "resnet, or mlp on 8x8 pixels (resnet)", "NAME")
    head: str | None = option(None, "learned, bias_free, or fixed_etf: frozen simplex ETF, no bias (learned)", "KIND")
    width: int | None = option(None, "channels of resnet's first stage, or units of mlp (16, 128)", "N")
    depth: int | None = option(None, "blocks of each of resnet's stages, or hidden layers (2, 3)", "N")
    activation: str | None = option(None, "of mlp: relu, gelu, silu or tanh (relu)", "NAME")
    weight_decay: float | None = option(None, "(the regime's)", "X")
    epochs: int | None = option(None, "(the regime's)", "N")
    save_every: int | None = option(None, "also keep the checkpoints of every N epochs", "N")
    seeds: tuple[int, ...] | None = option(None, "which networks to train (0 1 2)", "N")
    output: Path | None = option(None, "where to write s*/best.ckpt (results/<name>)", "DIR")
    data_root: Path | None = option(None, "images and lists (data)", "DIR")
    device: str = option("auto", DEVICE)


@command("run", "run a script of OpenOOD with this package's postprocessors")
@dataclass(frozen=True)
class Run:
    """Run a script of OpenOOD as it is, with or without a GPU, where this package's detectors are postprocessors, e.g.
    nci-ood run scripts/eval_ood.py --root results/... --postprocessor neco"""

    script: str = argument("SCRIPT", "in the working directory, else in OpenOOD's checkout")
    arguments: tuple[str, ...] = argument("...", "the script's own arguments", nargs=argparse.REMAINDER)
    device: str = option("auto", DEVICE)
    trust_pickles: bool = option(
        False, "let the script unpickle what it finds; that can run any code", one_of="pickles"
    )
    fresh: bool = option(False, "first move aside the pickles of earlier runs that it would read", one_of="pickles")


@command("list", "list benchmarks and detectors, with their papers")
@dataclass(frozen=True)
class List:
    """List benchmarks and detectors, with their papers."""

    openood: bool = option(False, "list OpenOOD's own methods, and how each is used")
    json: bool = option(False, "print JSON: a list of entries for every group")


@command("doctor", "say what is installed and found, and what of it does not work")
@dataclass(frozen=True)
class Doctor:
    """Print versions, device, free memory and disk, whether OpenOOD is found and can be imported, and which benchmarks
    have their data and checkpoints. Exit code 1 if something that is there does not work."""


@command("validate", "check benchmark and detector configs")
@dataclass(frozen=True)
class Validate:
    """Check benchmarks and detectors, by name or YAML file; with --data-root also every list and image."""

    configs: tuple[str, ...] = argument("CONFIG", "names or YAML files")
    data_root: Path | None = option(None, "check that all lists and images are there", "DIR")


@command("install", "copy nci_plugin into a checkout of OpenOOD")
@dataclass(frozen=True)
class Install:
    """Copy the package, its YAML files and scripts into a checkout of OpenOOD; again = update."""

    into: Path = option(MISSING, "the checkout of OpenOOD", "DIR")
    remove: bool = option(False, "take away what was installed there")
    force: bool = option(False, "overwrite, or remove, files that were changed too")
    dry_run: bool = option(False, "list what would be done")
