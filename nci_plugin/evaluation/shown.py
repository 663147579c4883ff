"""Results as a data frame, as a table for a paper or a page, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nci_plugin.benchmarks.benchmark import GROUP_ROWS
from nci_plugin.checks import PluginError, check_choice, check_known
from nci_plugin.evaluation.results import METRICS, OTHER_METRICS, SETTINGS, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {**METRICS, **OTHER_METRICS}
COLUMNS = ("benchmark", "setting", "seed", "detector", "group", "dataset")
ESCAPED = str.maketrans({each: f"\\{each}" for each in "&%$#_{}"})


def frame(results: Sequence[Result]) -> pd.DataFrame:
    """One row a result: what it is of, its metrics in percent, and the number of ID and OOD samples."""
    names = [*COLUMNS, *NAMES, "n_id", "n_ood", "chosen_by"]
    return pd.DataFrame([[getattr(result, name) for name in names] for result in results], columns=names)


def pivot(results: Sequence[Result], metric: str = "auroc", setting: str = "ood") -> pd.DataFrame:
    """Rows = detectors, best first; columns = data sets, and the means of groups of several; the mean over seeds."""
    check_known("metric", metric, NAMES)
    check_choice("setting", setting, SETTINGS)
    rows = frame([result for result in results if result.setting == setting])
    if rows.empty:
        raise PluginError(f"results: there are none in the setting '{setting}'")
    groups = {name: group for group, name in GROUP_ROWS.items()}
    single = rows[~rows["dataset"].isin(groups)].groupby("group")["dataset"].nunique()
    alone = [name for name, group in groups.items() if single.get(group, 0) == 1]  # a mean of one is that one
    rows = rows[~rows["dataset"].isin(alone)]
    table = rows.pivot_table(index="detector", columns="dataset", values=metric, sort=False)
    order = table.mean(axis=1).sort_values(ascending=metric in ("fpr95", "fpr_at_id_tpr95"), kind="stable")
    return table.loc[order.index]


def table(results: Sequence[Result], metric: str = "auroc", setting: str = "ood", format: str = "markdown") -> str:
    """`pivot` as Markdown or LaTeX (with booktabs), to two decimals; ``format`` is ``markdown`` or ``latex``."""
    check_choice("format", format, ("markdown", "latex"))
    cells = pivot(results, metric, setting)
    rows = [[str(name), *(f"{value:.2f}" for value in values)] for name, values in zip(cells.index, cells.to_numpy())]
    header = [f"{NAMES[metric]} (%)", *map(str, cells.columns)]
    if format == "latex":
        lines = [" & ".join(cell.translate(ESCAPED) for cell in row) + r" \\" for row in (header, *rows)]
        columns = "l" + "r" * len(cells.columns)
        body = [lines[0], r"\midrule", *lines[1:]]
        return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])
    ruler = ["---", *["---:"] * len(cells.columns)]
    texts = [[cell.replace("|", r"\|") for cell in row] for row in (header, ruler, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def figure(results: Sequence[Result], metric: str = "auroc", setting: str = "ood") -> Figure:
    """One dot for each detector and data set; the best detector is at the top."""
    from matplotlib.figure import Figure

    cells = pivot(results, metric, setting)[::-1]
    drawn = Figure(figsize=(6, 1 + 0.3 * len(cells)), layout="constrained")
    axes = drawn.subplots()
    for place, name in enumerate(cells.columns):
        axes.plot(cells[name], range(len(cells)), "os^vDPX*"[place % 8], label=str(name), alpha=0.8)
    axes.set_yticks(range(len(cells)), list(map(str, cells.index)))
    axes.set_xlabel(f"{NAMES[metric]} (%)")
    axes.grid(axis="x", alpha=0.4)
    axes.legend(fontsize="small")
    return drawn
