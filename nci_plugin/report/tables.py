"""Tables for a terminal and for the page, drawn from Results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nci_plugin.benchmarks.benchmark import GROUP_ROWS, OOD_VALIDATION
from nci_plugin.checks import one_line
from nci_plugin.evaluation.alternatives import MOST_ROWS, SEARCHED, VALIDATED_ON, Alternative, read_alternatives
from nci_plugin.evaluation.precision import AMP_SHIFT
from nci_plugin.evaluation.results import METRICS, PHASES, Result, formatted, table
from nci_plugin.report.terminal import aligned, folded, grouped, with_prose

TITLES = {"ood": "standard OOD", "fsood": "full-spectrum OOD (covariate-shifted samples count as ID)"}
MAIN_METRICS = ("auroc", "fpr95")
"""What a table starts with, and has alone unless more is asked for."""

TABLE_METRICS = (*MAIN_METRICS, *(name for name in METRICS if name not in (*MAIN_METRICS, "acc")))
"""Every metric of OpenOOD's tables but ACC, the main ones first."""


@dataclass(frozen=True)
class Table:
    """``rows`` of one length, the header first; the first ``left`` columns tell them apart; ``notes`` stand below."""

    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1

    def text(self) -> str:
        """For a terminal, as `aligned`."""
        return "\n".join([folded(self.title), aligned(self.rows, self.left), *map(folded, self.notes)])


def texts(tables: Iterable[Table]) -> Iterator[str]:
    """Tables for a terminal, a note that several share below the first of them alone."""
    said: set[str] = set()
    for each in tables:
        yield replace(each, notes=[note for note in each.notes if note not in said]).text()
        said.update(each.notes)


def mean_aurocs(results: Sequence[Result], group: str, setting: str) -> dict[str, float]:
    """Of every detector, in percent, over networks; empty where the benchmark lacks the group."""
    found: dict[str, list[float]] = {}
    for each in results:
        if (each.setting, each.dataset) == (setting, GROUP_ROWS[group]):
            found.setdefault(each.detector, []).append(each.auroc)
    return {name: float(np.mean(values)) for name, values in found.items()}


def detectors_by_near_auroc(results: Sequence[Result], setting: str) -> list[str]:
    """Detectors of a setting, best mean near-OOD AUROC first (far-OOD where the benchmark has no near set)."""
    means = mean_aurocs(results, "near", setting) or mean_aurocs(results, "far", setting)
    return sorted(means, key=lambda name: -means[name])


def setting_table(
    results: Sequence[Result],
    setting: str,
    metrics: Sequence[str] = MAIN_METRICS,
    by_data_set: bool = False,
    names: Mapping[str, str] | None = None,
) -> str:
    """A setting for a terminal: rows = detectors, columns = the metrics of near and of far, empty without results.

    ``by_data_set`` adds columns of every data set. ``names`` are display names, which stand beside the detectors where
    there is room.
    """
    if not detectors_by_near_auroc(results, setting):
        return ""
    sets = data_sets([result for result in results if result.setting == setting])
    frame = setting_frame(results, setting, metrics)
    return "\n".join([folded(setting_title(results, setting)), of_groups(frame, sets, by_data_set, names)])


def of_groups(
    frame: pd.DataFrame,
    sets: Mapping[str, Sequence[str]],
    by_data_set: bool = False,
    names: Mapping[str, str] | None = None,
) -> str:
    """`group_frame` for a terminal, and `sets_note` below it; see `grouped` for ``names``."""
    return f"{framed(group_frame(frame, by_data_set), names)}\n{folded(sets_note(sets))}"


def group_frame(frame: pd.DataFrame, by_data_set: bool = False) -> pd.DataFrame:
    """A frame with columns (one of `column_names`, metric) without those of data sets, unless ``by_data_set``."""
    return frame if by_data_set else frame[[column for column in frame.columns if "/" not in column[0]]]


def sets_note(sets: Mapping[str, Sequence[str]]) -> str:
    """``near: cifar100, tin; far: mnist``: what the mean of a group is of."""
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in sets.items())


def framed(frame: pd.DataFrame, names: Mapping[str, str] | None = None) -> str:
    """A frame with columns of (group, metric) for a terminal, in parts where it is too wide; see `grouped`."""
    columns = [(group, [metric, *frame[group, metric].fillna("-")]) for group, metric in frame.columns]
    return grouped(["detector", *map(str, frame.index)], columns, names)


def setting_frame(results: Sequence[Result], setting: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows = detectors, columns = (one of `column_names`, metric), cells = text; ID accuracy is in the title.

    ``metrics`` are fields of Result, all but ACC where None are given.
    """
    names = detectors_by_near_auroc(results, setting)
    over_seeds = len({result.seed for result in results}) > 1
    tables = {name: table(results, name, setting) for name in names}
    sets = data_sets([result for result in results if result.setting == setting])
    labels = [METRICS[name] for name in (metrics or METRICS) if name != "acc"]
    columns = pd.MultiIndex.from_product([column_names(sets), labels])
    places = [(GROUP_ROWS.get(column, column.rpartition("/")[2]), metric) for column, metric in columns]
    cells = [[formatted(tables[name].loc[place], over_seeds, "±") for place in places] for name in names]
    return pd.DataFrame(cells, index=names, columns=columns)


def setting_title(results: Sequence[Result], setting: str, cells: str = "mean ± std") -> str:
    """Benchmark, setting, ID accuracy and what the numbers, ``cells``, are means of."""
    first = next(result for result in results if result.setting == setting)
    seeds = list(dict.fromkeys(result.seed for result in results))
    best = detectors_by_near_auroc(results, setting)[0]
    accuracy = formatted(table(results, best, setting).iloc[0][METRICS["acc"]], len(seeds) > 1)
    networks = f"{cells} over {', '.join(seeds)}" if len(seeds) > 1 else "one network"
    return f"{first.benchmark}, {TITLES[setting]}: ACC {accuracy} on {first.n_id} ID samples; in percent, {networks}"


def data_sets(results: Sequence[Result]) -> dict[str, list[str]]:
    """The data sets behind the mean of each group."""
    sets: dict[str, list[str]] = {}
    for result in results:
        if result.dataset not in GROUP_ROWS.values():
            names = sets.setdefault(result.group, [])
            names += [result.dataset] * (result.dataset not in names)
    return sets


def column_names(sets: Mapping[str, Sequence[str]]) -> list[str]:
    """``near`` and ``far``, then ``near/cifar100`` and the like; a group of one data set is that data set."""
    return [*sets, *(f"{group}/{name}" for group, names in sets.items() if len(names) > 1 for name in names)]


def choices_table(results: Sequence[Result]) -> str:
    """`choices_rows` for a terminal."""
    return with_prose(choices_rows(results))


def choices_rows(results: Sequence[Result]) -> list[list[str]]:
    """The hyper-parameters of each detector, how they were chosen, and the seconds it took (mean over seeds)."""
    rows = [["detector", "fit s", "search s", "score s", "hyper-parameters, and how they were chosen"]]
    for name in detectors_by_near_auroc(results, results[0].setting):
        by_seed = {result.seed: result for result in results if result.detector == name}
        seconds = (np.mean([result.seconds[phase] for result in by_seed.values()]) for phase in PHASES)
        rows.append([name, *(f"{value:.2f}" for value in seconds), _choice(by_seed)])
    return rows


def _choice(by_seed: Mapping[str, Result]) -> str:
    """``alpha=0.01 (search ...)``, once for all seeds that agree."""
    values: dict[str, list[str]] = {}
    for seed, result in by_seed.items():
        text = ", ".join(f"{name}={value}" for name, value in result.hyperparameters.items()) or "none"
        values.setdefault(text, []).append(seed)
    chosen = "; ".join(text if len(values) == 1 else f"{' '.join(seeds)}: {text}" for text, seeds in values.items())
    first = next(iter(by_seed.values()))
    differs = len({result.chosen_by for result in by_seed.values()}) > 1
    how = first.chosen_by + (f" for {first.seed}" if differs else "")
    return chosen if chosen == "none" else one_line(f"{chosen} ({how})")


def alternatives_table(results: Sequence[Result]) -> Table | None:
    """What every OOD set at hand would have chosen in place of ``ood/val``, and the AUROC over those choices.

    Values that differ between networks stand one after the other; the lowest and the highest AUROC of the choices are
    means over networks. A search that tried no other set has ``-`` for them. None where nothing was searched.
    """
    found: dict[str, dict[str, dict[str, Alternative]]] = {}
    for result in results:
        if alternatives := read_alternatives(result.provenance) or _of_the_search(result):
            found.setdefault(result.detector, {})[result.seed] = alternatives
    if not found:
        return None
    sources = list(dict.fromkeys(name for by_seed in found.values() for each in by_seed.values() for name in each))
    rows = [["detector", "searched", *sources, *(f"{group} AUROC" for group in ("near", "far"))]]
    for detector, by_seed in found.items():
        made = list(by_seed.values())
        names = dict.fromkeys(name for each in made for choice in each.values() for name in choice.values)
        chosen = [
            dict.fromkeys(", ".join(map(str, each[source].values.values())) for each in made if source in each)
            for source in sources
        ]
        spreads = []
        for group in ("near", "far"):
            own = [[getattr(choice, group) for choice in each.values()] for each in made]
            known = not any(value is None for values in own for value in values)
            bounds = [float(np.mean([bound(values) for values in own])) for bound in (min, max)] if known else []
            spreads.append(f"{bounds[0]:.2f} to {bounds[1]:.2f}" if known else "-")
        rows.append([detector, ", ".join(names), *(" | ".join(each) or "-" for each in chosen), *spreads])
    validated = dict.fromkeys(str(result.provenance.get(VALIDATED_ON, "")) for result in results)
    named = ", ".join(one_line(name) for name in validated if name)
    alone = any(list(each) == [OOD_VALIDATION] for by_seed in found.values() for each in by_seed.values())
    return Table(
        "values that each OOD set would have chosen against id/val, and the AUROC over those choices",
        [[one_line(cell) for cell in row] for row in rows],
        [
            f"{OOD_VALIDATION} was used" + (f": {named}" if named else ""),
            f"AUROC in percent, lowest and highest, of id/test against a group's sets; at most {MOST_ROWS} of a set",
            *([f"-: only {OOD_VALIDATION} was tried, as where a search passes the images again"] if alone else []),
        ],
    )


def _of_the_search(result: Result) -> dict[str, Alternative]:
    """What ``ood/val`` chose, of a row whose search tried no other set; empty without a search."""
    searched = result.provenance.get("sweep")
    if not (isinstance(searched, Mapping) and result.chosen_by.startswith(SEARCHED)):
        return {}
    values = {name: value for name, value in result.hyperparameters.items() if name in searched}
    return {OOD_VALIDATION: Alternative(values, None, None)}


def amp_table(results: Sequence[Result]) -> Table | None:
    """How far the precision of the pass moved each detector's scores against float32, over seeds; None if it did not.

    See `precision.shift`: the largest difference, their mean, the lowest rank correlation, and the largest difference
    of an AUROC.
    """
    shifts: dict[str, dict[str, Mapping[str, float]]] = {}
    for result in results:
        if AMP_SHIFT in result.provenance:
            shifts.setdefault(result.detector, {})[result.seed] = result.provenance[AMP_SHIFT]
    if not shifts:
        return None
    summaries: dict[str, Callable[[list[float]], float]] = {
        "largest": max,
        "mean": lambda values: float(np.mean(values)),
        "rank_correlation": min,
        "auroc": max,
    }
    rows = [["detector", "largest |difference|", "mean", "rank correlation", "AUROC (points)"]]
    for detector, by_seed in shifts.items():
        values = {name: [shift[name] for shift in by_seed.values() if name in shift] for name in summaries}
        rows.append([detector, *(f"{f(values[name]):.3g}" if values[name] else "-" for name, f in summaries.items())])
    first = next(iter(shifts.values()))
    count = sum(int(shift["rows"]) for shift in first.values())
    precision = next(result.provenance["amp"] for result in results if AMP_SHIFT in result.provenance)
    return Table(f"scores in {precision} against float32, on {count} rows that passed in both", rows)
