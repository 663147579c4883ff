"""``nci-ood run``: one of OpenOOD's own scripts, unmodified, with this package's postprocessors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nci_plugin.adapters.openood import scripts
from nci_plugin.checks import PluginError
from nci_plugin.cli.tool_commands import Run
from nci_plugin.config import config_directory
from nci_plugin.features.options import resolve_device
from nci_plugin.files import move_aside
from nci_plugin.registration import register_with_openood


def run(options: Run) -> int:
    device = resolve_device(options.device)
    script = scripts.find_script(options.script)
    register_with_openood()
    from nci_plugin.adapters.openood.registries import GENERATED  # imports openood

    arguments: Sequence[str] = options.arguments
    for directory in (config_directory() / "postprocessors", GENERATED):
        arguments = scripts.with_shipped_configs(arguments, directory)
    if not options.trust_pickles:
        found = scripts.found_pickles(script, arguments)
        _keep_away([path for path in found if options.fresh or not scripts.is_known(path)], options.fresh)
    return scripts.run_script(script, arguments, device, options.trust_pickles)


def _keep_away(pickles: Sequence[Path], move: bool) -> None:
    """Move pickles aside, or raise PluginError if there are any."""
    if pickles and not move:
        others = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
        raise PluginError(
            f"the script would unpickle '{pickles[0]}'{others}, which can run any code; pass --fresh to move them aside"
            " and compute anew, or --trust-pickles if you know who wrote them",
            [f"pickle: {path}" for path in pickles],
        )
    for path in pickles:
        print(f"moved aside: {path} -> {move_aside(path).name}")
