"""What the detectors answered on one network, and how Python and a notebook show it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, TEST, Split
from nci_plugin.checks import PluginError, check_choice, check_known
from nci_plugin.evaluation.contestant import Scores
from nci_plugin.evaluation.results import METRICS, OTHER_METRICS, SETTINGS, Result
from nci_plugin.evaluation.written import latex_escaped, markdown_rows, tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {**METRICS, **OTHER_METRICS}
COLUMNS = ("benchmark", "setting", "seed", "detector", "group", "dataset")


@dataclass
class Evaluation:
    """What the detectors answered on one network: Results, scores by detector and split, and who failed and why.

    ``thin`` says what the training statistics are too few for, empty where they are not.
    """

    results: list[Result] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    thin: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row a result, for pandas: what it is of, its metrics in percent, and the number of ID and OOD samples."""
        names = [*COLUMNS, *NAMES, "n_id", "n_ood", "chosen_by"]
        return pd.DataFrame([[getattr(result, name) for name in names] for result in self.results], columns=names)

    def table(self, metric: str = "auroc", setting: str = "ood", format: str = "markdown") -> str:
        """Detectors, best first, by data sets, in percent, as ``markdown`` or ``latex`` (with booktabs)."""
        check_choice("format", format, ("markdown", "latex"))
        cells = self._pivot(metric, setting)
        header = [f"{NAMES[metric]} (%)", *map(str, cells.columns)]
        rows = [[str(name), *map("{:.2f}".format, values)] for name, values in zip(cells.index, cells.to_numpy())]
        if format == "latex":
            return "\n".join(tabular([list(map(latex_escaped, row)) for row in (header, *rows)]))
        return "\n".join(markdown_rows([header, *rows]))

    def plot(self, metric: str = "auroc", setting: str = "ood") -> Figure:
        """The same as a figure of matplotlib: one dot for each detector and data set, the best detector at the top."""
        from nci_plugin.evaluation.drawn import DrawnFigure, short_names

        cells = self._pivot(metric, setting)[::-1]
        sets = short_names(map(str, cells.columns))
        drawn = DrawnFigure(6, 1 + 0.3 * len(cells))
        axes = drawn.subplots()
        for place, name in enumerate(cells.columns):
            axes.plot(cells[name], range(len(cells)), "os^vDPX*"[place % 8], label=sets[str(name)], alpha=0.8)
        axes.set_yticks(range(len(cells)), list(short_names(map(str, cells.index)).values()))
        axes.set_xlabel(f"{NAMES[metric]} (%)")
        axes.grid(axis="x", alpha=0.4)
        axes.legend(fontsize="small")
        return drawn

    def summary(self, setting: str = "ood") -> pd.DataFrame:
        """A row a detector, best first: AUROC and FPR@95 of near and of far sets, in percent, means over seeds."""
        rows, columns = self._rows(setting), dict[str, pd.Series]()
        for group, name in GROUP_ROWS.items():
            means = rows[rows["dataset"] == name].groupby("detector", sort=False)[["auroc", "fpr95"]].mean()
            if len(means):
                columns |= {f"{group} {NAMES[metric]}": means[metric] for metric in means}
        return pd.DataFrame(columns).sort_values(next(iter(columns)), ascending=False, kind="stable")

    def plot_roc(self, detectors: Sequence[str] | None = None) -> Figure:
        """ROC curves, OOD positive, in percent: a panel for each near and far set and a curve for each detector.

        Without names they are the eight best of `summary`: more cannot be told apart. Raises PluginError on an unknown
        name.
        """
        from nci_plugin.evaluation.drawn import DrawnFigure, draw_chance, draw_grid, draw_roc, short_names

        names = self._chosen(detectors, 8)
        sets = [split for split in self.scores[names[0]] if Split.parse(split).is_ood]
        if not sets:
            raise PluginError("ROC curves: the benchmark must have near or far sets, it has none; add some")
        labels, titles = short_names(names), short_names(sets)
        drawn = DrawnFigure(3.6 * len(sets) + 1.6, 3.6)
        panels = draw_grid(drawn, len(sets), len(sets), sharey=True)
        for axes, split in zip(panels, sets):
            for place, name in enumerate(names):
                dashes = ("-", "--", "-.", ":")[place // 10 % 4]
                draw_roc(axes, self.scores[name][TEST], self.scores[name][split], linestyle=dashes, label=labels[name])
            draw_chance(axes)
            axes.set_title(f"{titles[split]}, n = {len(self.scores[name][split])}", fontsize="medium")
            axes.set_xlabel(f"ID samples called OOD (%), n = {len(self.scores[name][TEST])}")
        panels[0].set_ylabel("OOD samples found (%)")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
        return drawn

    def plot_scores(self, detectors: Sequence[str] | None = None) -> Figure:
        """Densities of the detectors' scores on ID test images and on every other set, in bins that they share.

        Without names they are the nine best of `summary`. Raises PluginError on an unknown name.
        """
        from nci_plugin.evaluation.drawn import DrawnFigure, draw_densities, draw_grid, short_names

        names = self._chosen(detectors, 9)
        across = min(3, len(names))
        drawn = DrawnFigure(3.4 * across + 1.6, 2.4 * -(-len(names) // across))
        panels, titles = draw_grid(drawn, len(names), across), short_names(names)
        for axes, name in zip(panels, names):
            groups = {split: Split.parse(split).group for split in self.scores[name]}
            own = {split: self.scores[name][split] for split, group in groups.items() if group in (CSID, NEAR, FAR)}
            both = {"ID test": self.scores[name][TEST], **own}
            labels = short_names(both)
            draw_densities(axes, {f"{labels[label]}, n = {len(values)}": values for label, values in both.items()})
            axes.set_title(titles[name], fontsize="medium")
            axes.set_xlabel("score, larger = more ID")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
        return drawn

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed ({', '.join(self.failures)})" if self.failures else ""
        sets = dict.fromkeys(result.dataset for result in self.results if result.dataset not in GROUP_ROWS.values())
        return f"Evaluation({len(self.scores)} detectors{failed}, OOD sets: {', '.join(sets) or 'none'})"

    def _repr_html_(self) -> str:
        """What a notebook shows: `summary`, and who failed and why."""
        failed = "".join(f"<li>{html.escape(f'{name}: {why}')}</li>" for name, why in self.failures.items())
        shown_rows = self.summary().to_html(float_format="{:.2f}".format, na_rep="-") if self.results else ""
        return f"<p>{html.escape(repr(self))}, in percent</p>{shown_rows}{f'<ul>{failed}</ul>' if failed else ''}"

    def _repr_markdown_(self) -> str:
        """The same where there is no HTML."""
        return self.table() if self.results else repr(self)

    def _rows(self, setting: str) -> pd.DataFrame:
        """Those of `to_frame` in one setting; raises PluginError where there are none."""
        check_choice("setting", setting, SETTINGS)
        rows = self.to_frame()
        rows = rows[rows["setting"] == setting]
        if rows.empty:
            raise PluginError(f"results: there are none in the setting '{setting}'")
        return rows

    def _pivot(self, metric: str, setting: str) -> pd.DataFrame:
        """Rows = detectors, best mean of the near sets first (of far ones without any); columns = data sets, and means
        of groups of several; the mean over seeds.
        """
        check_known("metric", metric, NAMES)
        rows = self._rows(setting)
        groups = {name: group for group, name in GROUP_ROWS.items()}
        single = rows[~rows["dataset"].isin(groups)].groupby("group")["dataset"].nunique()
        alone = [name for name, group in groups.items() if single.get(group, 0) == 1]  # a mean of one is that one
        table = rows.pivot_table(index="detector", columns="dataset", values=metric, sort=False)
        first = next(name for name in groups if name in table)
        order = table[first].sort_values(ascending=metric in ("fpr95", "fpr_at_id_tpr95"), kind="stable")
        return table.loc[order.index].drop(columns=alone)

    def _chosen(self, detectors: Sequence[str] | None, most: int) -> list[str]:
        """The detectors that are asked for, else so many of the best that have scores."""
        if detectors is None:
            ranked = list(self.summary().index) if self.results else list(self.scores)
            detectors = [name for name in ranked if name in self.scores][:most]
        for name in detectors:
            check_known("detector", name, list(self.scores))
        if not detectors:
            raise PluginError("figure: at least one detector must have scores, got none; evaluate one")
        return list(detectors)
