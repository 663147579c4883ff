"""The command ``nci-ood``: one file per sub-command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from nci_plugin import __version__
from nci_plugin.cli import compare as compare_command
from nci_plugin.cli import diagnose as diagnose_command
from nci_plugin.cli import dynamics as dynamics_command
from nci_plugin.cli import eval as eval_command
from nci_plugin.cli import explain as explain_command
from nci_plugin.cli import install as install_command
from nci_plugin.cli import leaderboard as leaderboard_command
from nci_plugin.cli import list as list_command
from nci_plugin.cli import report as report_command
from nci_plugin.cli import run as run_command
from nci_plugin.cli import train as train_command
from nci_plugin.cli import validate as validate_command

COMMANDS = (
    eval_command,
    compare_command,
    diagnose_command,
    dynamics_command,
    explain_command,
    report_command,
    train_command,
    leaderboard_command,
    run_command,
    list_command,
    validate_command,
    install_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns its exit code: 0 done, 1 a detector failed or a comparison differs, 2 bad input, 130 interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="nci-ood", description="Neural-collapse detectors of out-of-distribution samples, for OpenOOD v1.5."
    )
    parser.add_argument("--version", action="version", version=f"nci_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)

    from nci_plugin.checks import PluginError

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is at work cleans up, as after SIGINT
    try:
        return options.run(options)
    except PluginError as error:
        for line in error.details:
            print(line)
        print(f"nci-ood: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\nnci-ood: interrupted; what was finished is kept, run the same command to go on", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
