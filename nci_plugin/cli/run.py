"""``nci-ood run``: one of OpenOOD's own scripts, unmodified, with this package's postprocessors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a script of OpenOOD with this package's postprocessors",
        description="Run a script of OpenOOD as it is, with or without a GPU, where this package's detectors are"
        " postprocessors, e.g. nci-ood run scripts/eval_ood.py --root results/... --postprocessor neco",
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (auto)")
    pickles = parser.add_mutually_exclusive_group()
    pickles.add_argument(
        "--trust-pickles", action="store_true", help="let the script unpickle what it finds; that can run any code"
    )
    pickles.add_argument(
        "--fresh", action="store_true", help="first move aside the pickles of earlier runs that it would read"
    )
    parser.add_argument("script", metavar="SCRIPT", help="in the working directory, else in OpenOOD's checkout")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.adapters.openood import scripts
    from nci_plugin.config import config_directory
    from nci_plugin.features.options import resolve_device
    from nci_plugin.registration import register_with_openood

    device = resolve_device(options.device)
    script = scripts.find_script(options.script)
    register_with_openood()
    from nci_plugin.adapters.openood.registries import GENERATED  # imports openood

    arguments = options.arguments
    for directory in (config_directory() / "postprocessors", GENERATED):
        arguments = scripts.with_shipped_configs(arguments, directory)
    if not options.trust_pickles:
        found = scripts.found_pickles(script, arguments)
        _keep_away([path for path in found if options.fresh or not scripts.is_known(path)], options.fresh)
    return scripts.run_script(script, arguments, device, options.trust_pickles)


def _keep_away(pickles: Sequence[Path], move: bool) -> None:
    """Move pickles aside, or raise PluginError if there are any."""
    from nci_plugin.checks import PluginError
    from nci_plugin.files import move_aside

    if pickles and not move:
        others = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
        raise PluginError(
            f"the script would unpickle '{pickles[0]}'{others}, which can run any code; pass --fresh to move them aside"
            " and compute anew, or --trust-pickles if you know who wrote them",
            [f"pickle: {path}" for path in pickles],
        )
    for path in pickles:
        print(f"moved aside: {path} -> {move_aside(path).name}")
