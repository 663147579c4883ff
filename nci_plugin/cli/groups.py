"""Options that several commands have, as groups, and the help that their options share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nci_plugin.cli.options import argument, group, number_or_auto, option

RESULTS = "a directory that 'nci-ood eval' wrote to"
DEVICE = "auto, cuda, cuda:N, mps or cpu (auto)"


@dataclass(frozen=True)
class Network:
    """Which network, with which weights; ``--arch`` and ``--tvs-pretrained`` are those of OpenOOD's ImageNet script."""

    net: str | None = option(None, "FILE.py:FACTORY, package.module:factory, torchvision:NAME or timm:NAME", "FACTORY")
    arch: str | None = option(None, "resnet50, swin-t, vit-b-16, regnet or a classifier of torchvision's", "NAME")
    tvs_pretrained: bool = option(
        False, "torchvision's ImageNet weights of --arch (resnet50), with their own preprocessing"
    )
    tvs_version: int | None = option(None, "version of those weights (1)", choices=(1, 2))
    ckpt_path: Path | None = option(
        None,
        "a checkpoint, or a directory with s0/best.ckpt, s1/best.ckpt ... (the benchmark's own, in results)",
        "PATH",
        also="--root",
    )
    head: str | None = option(None, "name of the last linear layer, if it is not found by itself", "LAYER")


@dataclass(frozen=True)
class Steps:
    """How image files in folders become the network's input; without any, as torchvision's or timm's weights say."""

    pre_size: int | None = option(None, "resize the shorter side to so many pixels", "N")
    img_size: int | None = option(
        None, "then crop so many pixels from the centre; what is smaller gets black edges", "N"
    )
    mean: tuple[float, ...] | None = option(None, "mean of R, G, B in 0 to 1", "X", nargs=3)
    std: tuple[float, ...] | None = option(None, "standard deviation of R, G, B", "X", nargs=3)
    interpolation: str = option("bilinear", "of the resize (bilinear)", "NAME")


@dataclass(frozen=True)
class Data:
    """Where the images are, which of them count, and where the results go."""

    data_root: Path | None = option(None, "images and lists (data, of OpenOOD's checkout)", "DIR")
    csid: tuple[str, ...] | None = option(None, "covariate-shifted sets that count, or none (all)", "NAME")
    fsood: bool = option(False, "tables and CSV of the full spectrum only (both)")
    output: Path | None = option(None, "where to write (results/<name>)", "DIR")
    steps: Steps = group(Steps)


@dataclass(frozen=True)
class Pass:
    """How the images pass through the network."""

    device: str = option("auto", DEVICE)
    batch_size: int = option(200, "images a batch (200)", "N")
    workers: int | None = option(None, "loader processes, or auto: by the cores (auto)", "N", type=number_or_auto)
    amp: str = option(
        "none", "pass the images in bf16 or fp16 (torch.autocast), and say what that moves (none)", "NAME"
    )


IMAGES = (
    "training images: a folder with one sub-folder a class (or with train/ and val/ of such), a list of lines 'path"
    " label', or the name or YAML file of a benchmark, whose validation images calibrate"
)


@dataclass(frozen=True)
class Service:
    """The images and the network of a service."""

    images: str = argument("IMAGES", IMAGES)
    val: Path | None = option(None, "validation images, as a folder or list like IMAGES (IMAGES/val)", "PATH")
    steps: Steps = group(Steps)
    data_root: Path | None = option(None, "directory that the paths in image lists are relative to (the list's)", "DIR")
    network: Network = group(Network)
    passing: Pass = group(Pass, without=("amp",))


@dataclass(frozen=True)
class RowNames:
    """How a row is to be named on the leaderboard, and on which copy of it."""

    board: Path | None = option(None, "a checkout of OpenOOD's leaderboard branch (the copy that ships)", "PATH")
    training: str | None = option(None, "the board's Training (by the names of results and checkpoint)", "NAME")
    arch_name: str | None = option(None, "the board's Arch (by the network's factory)", "NAME")
    description: str | None = option(
        None, "the board's Additional_Description (by the names of results and checkpoint)", "TEXT"
    )
    outlier_data: bool = option(False, "outliers were used in training (No)")
    alias: tuple[str, ...] = option((), "the board's names of detectors (the usual)", "DETECTOR=NAME")


@dataclass(frozen=True)
class BoardRows:
    """Which results become rows of the leaderboard, and how these are named."""

    results: Path = argument("RESULTS", RESULTS)
    detectors: tuple[str, ...] | None = option(None, "detectors to be rows (all)", "NAME")
    names: RowNames = group(RowNames)
