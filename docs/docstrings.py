"""The package's docstrings as reStructuredText, and its signatures in short.

They are plain text with formulas, whose bars, stars and underscores are no markup, and with the sections "Args:" and
"Returns:".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

CODE = re.compile(r"``[^`]+``|`[^`]+`")
MARKUP = re.compile(r"[|*\\]|_\b|(?<=\w)_(?=\W|$)")
SECTIONS = {"Args:": "Arguments:", "Returns:": "Returns:"}
ARGUMENT = re.compile(r"    (?P<names>\w+(, \w+)*): (?P<text>.*)")


def to_restructured_text(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring; called by autodoc."""
    lines[:] = list(_rewritten(_with_lists(lines)))


def short_signature(
    app: Any, what: str, name: str, item: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Names in a signature without their modules, which autodoc keeps where a dataclass makes a default."""
    return signature and re.sub(r"~(\w+\.)*", "", signature).replace("<factory>", "..."), result


def _with_lists(lines: Sequence[str]) -> Iterator[str]:
    """The arguments of a section as a list."""
    in_section = False
    for line in lines:
        if line in SECTIONS:
            in_section = True
            yield from (SECTIONS[line], "")
        elif in_section and (argument := ARGUMENT.fullmatch(line)):
            names = ", ".join(f"``{name}``" for name in argument["names"].split(", "))
            yield f"* {names}: {argument['text']}"
        elif in_section and line.startswith("        "):
            yield f"  {line.strip()}"
        else:
            in_section = in_section and (line.startswith("    ") or not line)
            yield line.strip() if in_section else line


def _rewritten(lines: Iterator[str]) -> Iterator[str]:
    """Escape what would be read as markup, outside of `code` and of examples."""
    in_example = False
    for line in lines:
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        yield line if in_example else escaped(line, MARKUP, r"\\\g<0>")


def escaped(line: str, markup: re.Pattern[str], replacement: str) -> str:
    """A line in which every match of ``markup`` outside of `code` is replaced; a list's own star stays."""
    start = 2 if line.startswith("* ``") else 0
    parts, position = [line[:start]], start
    for code in CODE.finditer(line):
        parts += [markup.sub(replacement, line[position : code.start()]), code.group()]
        position = code.end()
    return "".join([*parts, markup.sub(replacement, line[position:])])
