"""Every check of a user's input, and its error text.

An error is one line with four facts: which input, what is allowed, what came, and what to do.
"""

from __future__ import annotations

import difflib
import numbers
import os
import re
import reprlib
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch costs 1.5 s: commands that only read results do without
    from torch import Tensor

MESSAGE_CHARACTERS = 2000
"""A longer message is cut: what it quotes may be of any size."""

SHOWN_CHARACTERS = 80

NAME_CHARACTERS = 120
"""The longest name from data: a file system takes 255 bytes, and suffixes are added to it."""

NAME_BYTES = 200
"""The same in UTF-8."""


ADDRESS = re.compile(r"(?: object)? at 0x[0-9a-fA-F]+(?=>)")
"""Where an object lies in memory, as Python writes it into texts: it is another one each time, and tells nobody."""


class PluginError(Exception):
    """A user's input cannot be used; the message is one line and says what to do. Commands exit with code 2.

    ``details`` are lines, of a table say, that a command prints before it.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        # Other libraries' texts and a user's names, quoted in it, may have many lines, escape codes or megabytes.
        super().__init__(one_line(ADDRESS.sub("", " ".join(message.split()))))
        self.details = tuple(one_line(ADDRESS.sub("", line)) for line in details)


class RowError(PluginError):
    """An image, or a row of numbers, cannot be used; what it was asked about can, and so may the others."""


@contextmanager
def errors_begin(what: str) -> Iterator[None]:
    """Where a PluginError is raised within, its text begins with ``what``."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{what}: {error}") from None


def one_line(text: str) -> str:
    """A text on one line that a terminal can be shown: control characters and surrogates as escapes, cut if long."""
    text = printable(text[: MESSAGE_CHARACTERS + 1])
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]} ..."


def printable(text: str) -> str:
    """A text of any length with control characters and surrogates as escapes, and white space as spaces."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character == " ":
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def shown(value: Any) -> str:
    """A value as an error message shows it: its repr, bounded in size and depth whatever the value holds."""
    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxstring, shortener.maxother, shortener.maxlong = 3, 60, 60, 40
    return shortener.repr(value)[: 2 * SHOWN_CHARACTERS]


def check_name(what: str, name: Any) -> str:
    """Return a name that came from data, a file or a stored row, and may become part of a path.

    Raises PluginError unless it is 1 to 120 printable characters that name a file in one directory: no slash, no
    backslash, no control character, and neither ``.`` nor ``..``.
    """
    fits = isinstance(name, str) and 0 < len(name) <= NAME_CHARACTERS and name.isprintable()
    if not fits or name in (".", "..") or re.search(r"[/\\]", name):
        raise PluginError(
            f"{what}: a name must be 1 to {NAME_CHARACTERS} printable characters without slashes, got {shown(name)};"
            " rename it"
        )
    return name


def check_row_name(what: str, name: Any) -> str:
    """`check_name` of what is a cell of a CSV file too: a spreadsheet takes one that begins with =, +, - or @ for code.

    Raises PluginError on these as well, and on a name that takes more bytes than a file's may.
    """
    check_name(what, name)
    if name[0] in "=+-@" or len(name.encode()) > NAME_BYTES:
        raise PluginError(
            f"{what}: a name must not begin with =, +, - or @, nor take more than {NAME_BYTES} bytes, got"
            f" {shown(name)}; rename it"
        )
    return name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or an empty string."""
    matches = difflib.get_close_matches(str(name)[:NAME_CHARACTERS], list(known), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise unless ``name`` is one of ``known``; ``what`` is the singular noun, e.g. ``detector``."""
    names = sorted(known)
    if name not in names:
        raise PluginError(f"unknown {what} '{name}'{did_you_mean(name, names)}; known: {', '.join(names)}")


def check_keys(where: str, given: Mapping[str, Any], allowed: Iterable[str], required: Iterable[str] = ()) -> None:
    """Raise on a key of ``given`` that is not allowed, or on a required key that is missing."""
    if not isinstance(given, Mapping):
        raise PluginError(f"{where}: must be a mapping of keys to values, got {type(given).__name__}")
    names = list(allowed)
    for key in given:
        if key not in names:
            raise PluginError(f"{where}: unknown key '{key}'{did_you_mean(key, names)}; allowed: {', '.join(names)}")
    for key in required:
        if key not in given:
            raise PluginError(f"{where}: key '{key}' is missing; add it")


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """The values of an option that takes ``NAME=VALUE``, by name; raises PluginError on anything else."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise PluginError(f"{option} '{text}': must be NAME=VALUE, each NAME once; correct it")
        found[name] = value
    return found


def check_finite(what: str, values: Tensor, first_index: int = 0) -> None:
    """Raise RowError if a row of ``values`` (n, d) holds NaN or infinity; names the first such row."""
    # One pass without a mask of the whole matrix: a sum is finite only if every term is.
    if values.sum().isfinite():
        return
    bad = ~values.isfinite().flatten(1).all(dim=1)
    if bad.any():
        row = first_index + int(bad.nonzero()[0, 0])
        raise RowError(
            f"{what}: row {row} holds NaN or infinity; check that image and the network's weights and preprocessing"
        )


def check_width(what: str, features: Tensor, expected: int) -> None:
    """Raise unless ``features`` is a matrix (n, expected)."""
    if features.ndim != 2 or features.shape[1] != expected:
        raise PluginError(
            f"{what}: expected features of shape (n, {expected}), got {tuple(features.shape)};"
            " extract them with the network that this head belongs to"
        )


def check_writable(directory: Path) -> None:
    """Raise unless files can be written in ``directory``, or in what would be its parent if it is not there yet."""
    try:
        if b"\0" in str(directory).encode():  # the libraries that work there take no name but of UTF-8
            raise ValueError("a NUL in its name")
        with tempfile.NamedTemporaryFile(dir=existing(directory)) as probe:
            probe.write(b"\0")
            probe.flush()
            os.fsync(probe.fileno())
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have, or that is not UTF-8
        raise PluginError(
            f"output directory '{directory}': cannot write there ({getattr(error, 'strerror', None) or error});"
            " free space or choose another with --output"
        ) from None


def check_replaceable(path: Path) -> None:
    """Raise where a file of that name would take the place of something else: of a pipe or a device, say."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # not there, or no name of a file: said by whoever writes it
        return
    if not stat.S_ISREG(mode):
        raise PluginError(f"cannot write '{path}': is there and is no regular file; name another file")


def existing(path: Path) -> Path:
    """The path if it is there, else the nearest above it that is."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def check_output_file(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise unless a file can be written at a path that has one of the suffixes: no rows of a run are written over."""
    if path.suffix.lower() not in suffixes:
        raise PluginError(f"{option}: must be a file named {' or '.join(suffixes)}, got '{path}'; name another")
    if path.is_dir():
        raise PluginError(f"{option}: must be a file, got the directory '{path}'; name a file in it")
    check_replaceable(path)
    check_writable(path.parent)


def check_number(
    what: str,
    value: Any,
    above: float | None = None,
    least: float | None = None,
    whole: bool = False,
    most: float | None = None,
) -> None:
    """Raise unless ``value`` is a finite number (a whole one if asked) above ``above``, from ``least`` to ``most``."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    in_range = is_number and abs(value) <= sys.float_info.max  # false for NaN
    in_range = in_range and (above is None or value > above) and (least is None or value >= least)
    too_much = in_range and most is not None and value > most
    if not in_range or too_much:
        allowed = "a whole number" if whole else "a finite number"
        bound = f" above {above}" if above is not None else f", at least {least}" if least is not None else ""
        bound += f" and at most {most}" if too_much else ""
        hint = "; YAML reads a number like 1e-4 as text, write 0.0001" if isinstance(value, str) else ""
        raise PluginError(f"{what}: must be {allowed}{bound}, got {shown(value)}{hint}")


def plain_number(value: Any) -> Any:
    """A number of any library, numpy's say, as Python's int or float, which JSON has; anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def check_choice(what: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    choices = list(allowed)
    # `1 == True`: a choice must match in type too.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise PluginError(f"{what}: must be one of {', '.join(map(str, choices))}, got {shown(value)}")
