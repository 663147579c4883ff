"""What fits a terminal: its width and characters; prose and tables in lines that it holds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from unicodedata import combining, east_asian_width

WIDTH = 100
"""Characters of a line in a file or a pipe; a terminal has its own, and the variable COLUMNS overrules both."""

ASCII = {"±": "+-", "²": "^2", "°": " degrees", "†": "+"}

GAP = "  "
LEAST_PROSE = 24
"""Characters that the last column of `with_prose` has at least."""

Column = tuple[str, Sequence[str]]
"""The group of a column, and its header and cells."""


def width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns


def plain(text: str) -> str:
    """The text, with ASCII for the signs that it may have where standard output is no terminal, or cannot print ±."""
    if text.isascii() or _prints_plus_minus():
        return text
    for sign, ascii_text in ASCII.items():
        text = text.replace(sign, ascii_text)
    return text


def say(text: str) -> None:
    """Print prose in lines of the width."""
    print(folded(text))


def folded(text: str) -> str:
    """Prose in lines of the width, continued lines behind two blanks; a longer word, of a path say, stays whole."""
    lines = (
        wrap(line, width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in plain(text).split("\n")
    )
    return "\n".join(part for line in lines for part in line or [""])


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of one length, header first: the first ``left`` columns to the left, the others to the right.

    What is too wide stands in parts, each with the columns to the left again, so that these must tell rows apart.
    """
    columns = [[plain(cell) for cell in column] for column in zip(*rows)]
    return _in_parts(columns[:left], [("", column) for column in columns[left:]])


def grouped(first: Sequence[str], columns: Sequence[Column], names: Mapping[str, str] | None = None) -> str:
    """A table whose columns have a group over them; neighbours of one group share it.

    What is too wide stands in parts, each with the first column and the groups again.

    Args:
        first: header and cells of the first column, to the left.
        columns: the others, to the right.
        names: other names of the first column's cells, which stand beside them if the table then is still in one part.
    """
    cells = [(group, [plain(cell) for cell in column]) for group, column in columns]
    lead = [[plain(cell) for cell in first]]
    with_names = [*lead, ["name", *(names.get(cell, "") for cell in first[1:])]] if names else lead
    if _size(with_names) + sum(_size_of(group) for group in _groups(cells)) <= width():
        lead = with_names
    return _in_parts(lead, cells)


def with_prose(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of one length, whose last column is prose that is folded beside the others; ``left`` of these are words."""
    *columns, prose = ([plain(cell) for cell in column] for column in zip(*rows))
    table = _lines(columns[:left], [("", column) for column in columns[left:]], strip=False).split("\n")
    room = max(width() - places(table[0]) - len(GAP), LEAST_PROSE)
    lines = []
    for line, text in zip(table, prose):
        for place, part in enumerate(wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]):
            lines.append(f"{line if place == 0 else ' ' * places(line)}{GAP}{part}".rstrip())
    return "\n".join(lines)


def _prints_plus_minus() -> bool:
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    try:
        "±".encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return False
    return True


def _in_parts(lead: Sequence[Sequence[str]], columns: Sequence[Column]) -> str:
    return "\n\n".join(_lines(lead, part) for part in _parts(lead, columns))


def _parts(lead: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[list[Column]]:
    """The columns of each part: a group goes into the next one as a whole, and one that fits none is cut."""
    room = width() - _size(lead)
    parts: list[list[Column]] = []
    used = room
    for group in _groups(columns):
        pieces = [group] if _size_of(group) <= room else [[column] for column in group]
        for place, piece in enumerate(pieces):
            size = _size_of(piece)
            if used + size > room or (len(pieces) > 1 and place == 0):
                parts.append([])
                used = 0
            parts[-1] += piece
            used += size
        if len(pieces) > 1:
            used = room
    return parts or [[]]


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    return [list(group) for _, group in groupby(columns, key=lambda column: column[0])]


def places(text: str) -> int:
    """How many characters wide a text is on a terminal: a Chinese one takes two places, a combining accent none."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(each) in "WF" else not combining(each) for each in text)


def _to_the_left(text: str, size: int) -> str:
    return text + " " * (size - places(text))


def _to_the_right(text: str, size: int) -> str:
    return " " * (size - places(text)) + text


def _size(columns: Sequence[Sequence[str]]) -> int:
    """Characters of columns and the gaps between them."""
    return sum(max(map(places, column)) for column in columns) + len(GAP) * (len(columns) - 1)


def _size_of(group: Sequence[Column]) -> int:
    """Characters of a group's columns, or of its name, and the gap before them."""
    return len(GAP) + max(_size([column for _, column in group]), places(group[0][0]))


def _lines(lead: Sequence[Sequence[str]], columns: Sequence[Column], strip: bool = True) -> str:
    blocks = [
        *(_block([("", column)], _to_the_left) for column in lead),
        *(_block(each, _to_the_right) for each in _groups(columns)),
    ]
    lines = [GAP.join(line) for line in zip(*blocks)]
    if not any(group for group, _ in columns):
        del lines[0]
    return "\n".join(line.rstrip() if strip else line for line in lines)


def _block(group: Sequence[Column], justify: Callable[[str, int], str]) -> list[str]:
    """The lines of one group: its name between dashes, then its columns."""
    name, columns = group[0][0], [column for _, column in group]
    size = max(_size(columns), len(name))
    rule = f" {name} ".center(size, "-") if name and len(name) + 4 <= size else name.center(size)
    sizes = [max(map(places, column)) for column in columns]
    cells = (GAP.join(justify(cell, size) for cell, size in zip(row, sizes)) for row in zip(*columns))
    return [rule, *(justify(line, size) for line in cells)]
