"""Options as fields of frozen dataclasses: how a field says what it is on the command line.

A field's annotation is the type of its values: ``bool`` is a flag, ``tuple[...]`` takes one value or more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import MISSING, field
from typing import Any, TypeVar

Options = TypeVar("Options", bound=type)

COMMANDS: dict[str, tuple[str, type]] = {}
"""One line of help and the options of every sub-command, by name; ``leaderboard rank`` is an action of one."""


def command(name: str, help: str) -> Callable[[Options], Options]:
    """Make a sub-command of a dataclass of options, whose docstring is its description."""

    def register(options: Options) -> Options:
        COMMANDS[name] = help, options
        return options

    return register


def option(default: Any, help: str, metavar: str | None = None, **settings: Any) -> Any:
    """A field that is the option ``--its-name``; required where ``default`` is MISSING.

    ``settings`` are add_argument's, and two more: of fields that share ``one_of`` only one can be given, and ``also``
    is another name of the option, of which only one can be given.
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, **settings})


def argument(metavar: str, help: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field that is a positional argument."""
    return option(default, help, metavar, positional=True, **settings)


def group(options: type, without: Collection[str] = ()) -> Any:
    """A field that holds the options of a group, of which those that a command is ``without`` keep their default.

    A group may hold groups.
    """
    return field(default_factory=options, metadata={"group": options, "without": without})


def number_or_auto(text: str) -> int | None:
    """None for ``auto``; argparse names this function where it raises ValueError."""
    return None if text == "auto" else int(text)
