"""Rows of cells as the lines of a table in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

BAR = r"\|"
"""In a cell of Markdown."""

LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "²": r"$^2$",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, the header first."""
    lines = [f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |" for row in rows]
    return [lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:]]


def tabular(rows: Sequence[Sequence[str]], over: Sequence[str] = ()) -> list[str]:
    """The lines of a tabular with booktabs, of cells in LaTeX, the header first; ``over`` are lines above it."""
    header, *others = (" & ".join(row) + r" \\" for row in rows)
    columns = f"l{'r' * (len(rows[0]) - 1)}"
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *over, header, r"\midrule"]
    return [*top, *others, r"\bottomrule", r"\end{tabular}"]


def latex_escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(sign, sign) for sign in text)
