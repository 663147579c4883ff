"""The options of OpenOOD's ImageNet script that name torchvision's networks and weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nci_plugin.networks.pretrained import TorchvisionWeights

CONFLICTS = (("--arch", "--net"), ("--tvs-pretrained", "--net"), ("--tvs-pretrained", "--ckpt-path"))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", metavar="NAME", help="resnet50, swin-t, vit-b-16, regnet or a classifier of torchvision's"
    )
    parser.add_argument(
        "--tvs-pretrained",
        action="store_true",
        help="torchvision's ImageNet weights of --arch (resnet50), with their own preprocessing",
    )
    parser.add_argument("--tvs-version", type=int, choices=(1, 2), help="version of those weights (1)")


def resolve(options: argparse.Namespace) -> TorchvisionWeights | None:
    """torchvision's weights, if they are asked for; ``options.net`` becomes the network that ``--arch`` names.

    Raises PluginError on options that do not go together.
    """
    from nci_plugin.checks import PluginError
    from nci_plugin.cli.eval_all import ALL
    from nci_plugin.networks.pretrained import DEFAULT_ARCH, TorchvisionWeights, torchvision_name

    def given(flag: str) -> bool:
        return bool(getattr(options, flag[2:].replace("-", "_")))

    for flags in CONFLICTS:
        if all(map(given, flags)):
            raise PluginError(f"{' and '.join(flags)}: cannot be given together; leave one of them out")
    if given("--tvs-version") and not given("--tvs-pretrained"):
        raise PluginError("--tvs-version: is the version of torchvision's weights; pass --tvs-pretrained too")
    if not given("--arch") and not given("--tvs-pretrained"):
        return None
    arch = options.arch or DEFAULT_ARCH
    if options.benchmark in (None, ALL):
        raise PluginError(f"--arch {arch}: cannot hold for all benchmarks; name one, e.g. imagenet")
    options.net = f"torchvision:{torchvision_name(arch)}"
    if given("--tvs-pretrained"):
        return TorchvisionWeights.of(arch, options.tvs_version or 1)
    if options.ckpt_path is None:
        raise PluginError(f"--arch {arch}: needs weights; pass --ckpt-path, or --tvs-pretrained for torchvision's")
    return None
