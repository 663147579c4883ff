"""Results as a data frame, as a table for a paper or a page, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, TEST, Split
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


def summary(results: Sequence[Result], setting: str = "ood") -> pd.DataFrame:
    """Rows = detectors, best first; columns = AUROC and FPR@95, near and far, in percent, means over seeds."""
    columns = {}
    for group, name in GROUP_ROWS.items():
        for metric in ("auroc", "fpr95"):
            rows = [each for each in results if each.setting == setting and each.dataset == name]
            if rows:
                values = pd.DataFrame([(each.detector, getattr(each, metric)) for each in rows])
                columns[f"{group} {NAMES[metric]}"] = values.groupby(0, sort=False)[1].mean()
    if not columns:
        check_choice("setting", setting, SETTINGS)
        raise PluginError(f"results: there are none in the setting '{setting}'")
    made = pd.DataFrame(columns).rename_axis("detector")
    return made.sort_values(next(iter(columns)), ascending=False, kind="stable")


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
    from nci_plugin.evaluation.drawn import DrawnFigure

    cells = pivot(results, metric, setting)[::-1]
    drawn = DrawnFigure(6, 1 + 0.3 * len(cells))
    axes = drawn.subplots()
    for place, name in enumerate(cells.columns):
        axes.plot(cells[name], range(len(cells)), "os^vDPX*"[place % 8], label=str(name), alpha=0.8)
    axes.set_yticks(range(len(cells)), list(map(str, cells.index)))
    axes.set_xlabel(f"{NAMES[metric]} (%)")
    axes.grid(axis="x", alpha=0.4)
    axes.legend(fontsize="small")
    return drawn


def roc_figure(scores: Mapping[str, Mapping[str, NDArray[Any]]], detectors: Sequence[str] | None = None) -> Figure:
    """ROC curves, OOD positive, in percent: a panel for each OOD set and a curve for each detector."""
    from nci_plugin.evaluation.drawn import DrawnFigure, draw_chance, draw_grid, draw_roc

    names = _chosen(scores, detectors)
    sets = [split for split in scores[names[0]] if Split.parse(split).is_ood]
    if not sets:
        raise PluginError("ROC curves: the benchmark must have near or far sets, it has none; add some")
    drawn = DrawnFigure(3.6 * len(sets) + 1.6, 3.6)
    panels = draw_grid(drawn, len(sets), len(sets), sharey=True)
    for axes, split in zip(panels, sets):
        for place, name in enumerate(names):
            dashes = ("-", "--", "-.", ":")[place // 10 % 4]
            draw_roc(axes, scores[name][TEST], scores[name][split], linestyle=dashes, label=name)
        draw_chance(axes)
        axes.set_title(f"{split}, n = {len(scores[name][split])}", fontsize="medium")
        axes.set_xlabel(f"ID samples called OOD (%), n = {len(scores[name][TEST])}")
    panels[0].set_ylabel("OOD samples found (%)")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    return drawn


def scores_figure(scores: Mapping[str, Mapping[str, NDArray[Any]]], detectors: Sequence[str] | None = None) -> Figure:
    """Densities of the scores on ID test images and on every other set, in bins that they share: a panel a detector."""
    from nci_plugin.evaluation.drawn import DrawnFigure, draw_densities, draw_grid

    names = _chosen(scores, detectors)
    across = min(3, len(names))
    drawn = DrawnFigure(3.4 * across + 1.6, 2.4 * -(-len(names) // across))
    panels = draw_grid(drawn, len(names), across)
    for axes, name in zip(panels, names):
        own = {split: each for split, each in scores[name].items() if Split.parse(split).group in (CSID, NEAR, FAR)}
        both = {"ID test": scores[name][TEST], **own}
        draw_densities(axes, {f"{label}, n = {len(values)}": values for label, values in both.items()})
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("score, larger = more ID")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    return drawn


def _chosen(scores: Mapping[str, Any], detectors: Sequence[str] | None) -> list[str]:
    names = list(scores if detectors is None else detectors)
    for name in names:
        check_known("detector", name, list(scores))
    if not names:
        raise PluginError("figure: at least one detector must have scores, got none; evaluate one")
    return names
