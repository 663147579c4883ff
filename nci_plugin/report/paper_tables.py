r"""Tables for a paper: text, markdown, and LaTeX with booktabs, drawn from Results and ranks alone.

A value is marked where the ranks say that its detector may be the best: no other is better by more than chance. One
digit is not enough for that, so what has no rank (a metric that nobody compared, a benchmark without scores) is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from nci_plugin.evaluation.results import METRICS, Result
from nci_plugin.evaluation.written import latex_escaped, markdown_rows, tabular
from nci_plugin.report.names import display_name
from nci_plugin.report.summary import Ranks, leaders
from nci_plugin.report.tables import (
    MAIN_METRICS,
    Table,
    data_sets,
    framed,
    group_frame,
    sets_note,
    setting_frame,
    setting_title,
)
from nci_plugin.report.terminal import folded

COMPARED = METRICS["auroc"]
BEST = "no detector has a better AUROC in this column by more than chance (DeLong and Holm, 5 %)"


def paper_table(
    results: Sequence[Result],
    setting: str,
    ranks: Ranks,
    form: str,
    metrics: Sequence[str] = MAIN_METRICS,
    by_data_set: bool = False,
) -> str:
    """One setting's table as ``text``, ``markdown`` or ``latex``: rows = detectors, columns = metrics of near and far.

    ``metrics`` and ``by_data_set`` are those of `setting_table`.
    """
    sets = data_sets([result for result in results if result.setting == setting])
    frame = group_frame(setting_frame(results, setting, metrics), by_data_set)
    made = FORMS[form]
    for group, metric in frame.columns:
        best = leaders(ranks.get(group, {})) if metric == COMPARED else []
        marks = {name: made.best if name in best else made.other for name in frame.index} if best else {}
        column = frame[group, metric]
        frame[group, metric] = [marks.get(name, "{}").format(made.cell(cell)) for name, cell in column.items()]
    return made.write(frame, [setting_title(results, setting), sets_note(sets)], any(ranks.values()))


def written(table: Table, form: str) -> str:
    """Any other table in one of the `FORMS`; nothing in it is compared, so nothing is bold."""
    if form == "text":
        return table.text()
    if form == "markdown":
        return "\n".join([*markdown_rows(table.rows), "", "; ".join([table.title, *table.notes])])
    return _latex_rows([list(map(latex_escaped, row)) for row in table.rows], [table.title, *table.notes])


def _text(frame: pd.DataFrame, notes: Sequence[str], ranked: bool) -> str:
    title, sets = notes
    names = {name: display_name(name) for name in frame.index}
    return "\n".join([folded(title), framed(frame, names), folded(sets), *([folded(f"*: {BEST}")] * ranked)])


def _markdown(frame: pd.DataFrame, notes: Sequence[str], ranked: bool) -> str:
    header = ["detector", *(f"{group} {metric}" for group, metric in frame.columns)]
    rows = [[display_name(name), *frame.loc[name]] for name in frame.index]
    return "\n".join([*markdown_rows([header, *rows]), "", "; ".join([*notes, *([f"bold: {BEST}"] * ranked)])])


def _latex(frame: pd.DataFrame, notes: Sequence[str], ranked: bool) -> str:
    groups = [(group, len(list(columns))) for group, columns in groupby(group for group, _ in frame.columns)]
    above, rules, first = [""], [], 2
    for group, count in groups:
        above.append(rf"\multicolumn{{{count}}}{{c}}{{{latex_escaped(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    rows = [[latex_escaped(display_name(name)), *frame.loc[name]] for name in frame.index]
    header = ["detector", *(latex_escaped(metric) for _, metric in frame.columns)]
    over = [" & ".join(above) + r" \\", "".join(rules)]
    return _latex_rows([header, *rows], [*notes, *([f"bold: {BEST}"] * ranked)], over)


def _latex_rows(rows: Sequence[Sequence[str]], notes: Sequence[str], over: Sequence[str] = ()) -> str:
    """A table with booktabs; the cells are LaTeX, ``notes`` are text, and ``over`` are lines above the header."""
    lines = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escaped('; '.join(notes))}}}",
        *tabular(rows, over),
        r"\end{table}",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Form:
    """How a table is written, and its cells: those of the best, and of the others in their column."""

    write: Callable[[pd.DataFrame, Sequence[str], bool], str]
    cell: Callable[[str], str]
    best: str
    other: str = "{}"


FORMS = {
    "text": _Form(_text, lambda cell: cell, "{}*", "{} "),
    "markdown": _Form(_markdown, lambda cell: cell.replace("±", " ± "), "**{}**"),
    "latex": _Form(_latex, latex_escaped, r"\textbf{{{}}}"),
}
