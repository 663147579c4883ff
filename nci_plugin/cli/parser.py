"""The parser of ``nci-ood``, made of the dataclasses of options, and the options made of what it parsed."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from nci_plugin import __version__
from nci_plugin.cli import commands, service_commands, tool_commands  # noqa: F401 - they register them, in this order
from nci_plugin.cli.leaderboard_commands import ACTIONS
from nci_plugin.cli.options import COMMANDS


def path(text: str) -> Path:
    """A path; an empty one, of a variable that is not set, would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or directory, this one as '.'")
    return Path(text)


TYPES: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "Path": path}


def make_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="nci-ood", description="Neural-collapse detectors of out-of-distribution samples, for OpenOOD v1.5."
    )
    parser.add_argument("--version", action="version", version=f"nci_plugin {__version__}")
    parents = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for name, (help, options) in COMMANDS.items():
        parent, _, action = name.rpartition(" ")
        if parent not in parents:
            said, description = ACTIONS[parent]
            above = parents[""].add_parser(parent, help=said, description=description)
            parents[parent] = above.add_subparsers(required=True, metavar="ACTION")
        made = parents[parent].add_parser(action, help=help, description=inspect.getdoc(options))
        made.set_defaults(command=name)
        _add_options(made, options)
    return parser


def parse(arguments: Sequence[str] | None) -> tuple[str, Any]:
    """The name of the sub-command that was asked for, and its options."""
    values = vars(make_parser().parse_args(arguments))
    return values["command"], _build(COMMANDS[values["command"]][1], values)


def function_of(name: str) -> Callable[[Any], int]:
    """What runs a sub-command: ``run`` of the module of its name, ``run_rank`` for ``leaderboard rank``."""
    module, _, action = name.partition(" ")
    run: Callable[[Any], int] = getattr(
        importlib.import_module(f"nci_plugin.cli.{module}"), f"run_{action}" if action else "run"
    )
    return run


def _add_options(parser: argparse.ArgumentParser, options: type, without: Collection[str] = ()) -> None:
    alternatives: dict[str, Any] = {}
    for each in fields(options):
        if each.name in without:
            continue
        settings = dict(each.metadata)
        if "group" in settings:
            _add_options(parser, settings["group"], {*without, *settings["without"]})
            continue
        also, positional = settings.pop("also", None), settings.pop("positional", False)
        target: Any = parser
        if one_of := settings.pop("one_of", also):
            target = alternatives[one_of] = alternatives.get(one_of) or parser.add_mutually_exclusive_group()
        required = each.default is MISSING
        if not required:
            settings["default"] = each.default
        if each.type == "bool":
            del settings["metavar"]
            settings["action"] = "store_true"
        else:
            settings.setdefault("type", TYPES[re.sub(r"^tuple\[|\W.*", "", str(each.type))])
            if str(each.type).startswith("tuple"):
                settings.setdefault("nargs", "+")
            elif positional and not required:
                settings["nargs"] = "?"
        if positional:
            target.add_argument(each.name, **settings)
            continue
        flag = f"--{each.name.replace('_', '-')}"
        target.add_argument(flag, required=required, **settings)
        if also:
            target.add_argument(also, dest=each.name, **{**settings, "help": f"the same as {flag}"})


def _build(options: type, values: Mapping[str, Any]) -> Any:
    """The options of what was parsed; one that is not there keeps its default."""
    given: dict[str, Any] = {}
    for each in fields(options):
        if "group" in each.metadata:
            given[each.name] = _build(each.metadata["group"], values)
        elif each.name in values:
            value = values[each.name]
            given[each.name] = tuple(value) if isinstance(value, list) else value
    return options(**given)
