"""``nci-ood install``: copy this package, its YAML files and scripts into a checkout of OpenOOD, or out of it again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "install",
        help="copy nci_plugin into a checkout of OpenOOD",
        description="Copy the package, its YAML files and scripts into a checkout of OpenOOD; again = update.",
    )
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the checkout of OpenOOD")
    parser.add_argument("--remove", action="store_true", help="take away what was installed there")
    parser.add_argument("--force", action="store_true", help="overwrite, or remove, files that were changed too")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.installation import apply, plan_installation, plan_removal

    checkout = options.into.expanduser()
    changes = (plan_removal if options.remove else plan_installation)(checkout, options.force)
    for reason in dict.fromkeys(changes.left.values()):
        print(f"left alone, {reason}: {', '.join(name for name, why in changes.left.items() if why == reason)}")
    if options.dry_run:
        for verb, names in (("write", changes.write), ("remove", changes.remove)):
            for name in names:
                print(f"would {verb}: {name}")
        return 0
    apply(changes, checkout)
    if options.remove:
        print(f"{checkout}: {len(changes.remove)} files removed")
    else:
        unchanged = len(changes.manifest) - len(changes.write)
        print(f"{checkout}: {len(changes.write)} files written, {unchanged} were there already")
        print(f"next: cd {checkout} && bash scripts/eval_nci.sh --help")
    return 0
