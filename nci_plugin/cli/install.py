"""``nci-ood install``: copy this package, its YAML files and scripts into a checkout of OpenOOD, or out of it again."""

from __future__ import annotations

from shlex import quote

from nci_plugin.cli.tool_commands import Install
from nci_plugin.installation import apply, plan_installation, plan_removal


def run(options: Install) -> int:
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
        unchanged = len(changes.manifest.keys() - changes.left) - len(changes.write)
        print(f"{checkout}: {len(changes.write)} files written, {unchanged} were there already")
        print(f"next: cd {quote(str(checkout))} && bash scripts/eval_nci.sh --help")
    return 0
