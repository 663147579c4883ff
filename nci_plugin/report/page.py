"""One self-contained HTML page of a results directory, from Results, diagnosis files and stored scores alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nci_plugin.benchmarks.benchmark import TEST
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.alternatives import ALTERNATIVES
from nci_plugin.evaluation.identity import unrecorded
from nci_plugin.evaluation.results import METRICS, OTHER_METRICS, SETTINGS, Result, complete
from nci_plugin.report import html
from nci_plugin.report.diagnosis_figures import figures
from nci_plugin.report.diagnosis_files import Stored, drawn_from, has_diagnosis, read_diagnoses, read_explanation
from nci_plugin.report.diagnosis_tables import all_tables, class_table
from nci_plugin.report.figures import draw_aurocs, rendered
from nci_plugin.report.files import ResultsDirectory
from nci_plugin.report.html import Html, element
from nci_plugin.report.score_figures import detector_figure
from nci_plugin.report.tables import (
    alternatives_table,
    choices_rows,
    detectors_by_near_auroc,
    setting_frame,
    setting_title,
)

FIRST_METRICS = ("AUROC", "FPR@95")
"""Tables that are not folded."""

TIES = "rank 2-4: no rank from 2 to 4 can be excluded by the scores at hand (DeLong and Holm, 5 %)"

Ranks = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By setting, group and detector."""


def page(
    path: Path, results: Sequence[Result], scores: Mapping[str, Figure], ranks: Ranks | None = None, note: str = ""
) -> str:
    """The HTML of ``results/<name>``, its rows and the figure of each detector; raises PluginError on damaged files.

    ``ranks`` by setting, group and detector show ties as ties, and ``note`` says why there are none. Figures are drawn
    from the stored files, and nothing is computed but their bins and curves.
    """
    sections: dict[str, list[Html]] = {"Benchmark": list(_benchmark(results, ranks or {}, note))}
    if has_diagnosis(path):
        with drawn_from(path):
            sections["Neural collapse"] = _diagnosis(path)
    sections["Scores"] = [html.folded(detector, _image(figure)) for detector, figure in scores.items()]
    sections["Hyper-parameters"] = [_wrapped("hyper-parameters, and seconds (mean over seeds)", choices_rows(results))]
    if table := alternatives_table(results):
        sections["Hyper-parameters"] += [html.table(table.title, table.rows, table.notes)]
    sections["Provenance"] = [_provenance(results)]
    sections["All rows"] = [_all_rows(results)]
    identities = {name: name.lower().replace(" ", "-") for name in sections}
    title = f"{results[0].benchmark}: {path.resolve().name}"
    links = [element("a", name, href=f"#{identity}") for name, identity in identities.items()]
    return html.document(
        title,
        element("h1", title),
        element("nav", *links, aria_label="contents"),
        *(element("section", element("h2", name), *content, id=identities[name]) for name, content in sections.items()),
    )


def _benchmark(results: Sequence[Result], ranks: Ranks, note: str) -> Iterator[Html]:
    """A sortable table for each setting and metric, and the figure of all."""
    whole = complete(results)
    left_out = sorted({result.detector for result in results} - {result.detector for result in whole})
    if left_out:
        yield element("p", f"Not scored for every seed, so in no mean: {', '.join(left_out)}.", class_="note")
    if missing := unrecorded([result.provenance for result in results]):
        yield element("p", missing, class_="note")
    if not whole:
        return
    for setting in SETTINGS:
        if not detectors_by_near_auroc(whole, setting):
            continue
        frame = setting_frame(whole, setting)
        yield element("h3", setting_title(whole, setting))
        drawn = {}
        for metric in frame.columns.unique(level=1):
            cells = frame.xs(metric, axis=1, level=1)
            rows = [["detector", *cells.columns], *([name, *row] for name, row in zip(cells.index, cells.to_numpy()))]
            of_group = ranks.get(setting, {}) if metric == METRICS["auroc"] else {}
            for group, by_detector in of_group.items():
                rows = [[*row, by_detector.get(row[0], f"rank {group}" if row is rows[0] else "-")] for row in rows]
            drawn[metric] = html.table(f"{metric} (%)", rows, [TIES] * bool(of_group), sortable=True)
        yield element("div", *(drawn.pop(metric) for metric in FIRST_METRICS), class_="row")
        yield html.folded(", ".join(drawn), element("div", *drawn.values(), class_="row"))
    if note:
        yield element("p", note, class_="note")
    yield _image(draw_aurocs(whole))


def _diagnosis(path: Path) -> list[Html]:
    stored = read_diagnoses(path)
    return [
        element("ul", *(element("li", sentence) for sentence in read_explanation(path)["sentences"])),
        *(
            html.table(each.title, each.rows, each.notes)
            for each in all_tables([each.name for each in stored], [each.record for each in stored])
        ),
        *(_class_table(each) for each in stored),
        *_diagnosis_figures(path),
    ]


def _class_table(stored: Stored) -> Html:
    table = class_table(stored.name, stored.record)
    drawn = html.table(table.title, table.rows, table.notes, sortable=True)
    return html.folded(f"Classes of {stored.name}", drawn)


def _diagnosis_figures(path: Path) -> Iterator[Html]:
    """The figure over all networks, then those of each network, folded but for the first."""
    by_network: dict[str, list[Html]] = {}
    for name, figure in figures(path):
        by_network.setdefault(name.rpartition("/")[0], []).append(_image(figure))
    yield from by_network.pop("", [])
    for number, (network, images) in enumerate(by_network.items()):
        yield html.folded(f"Figures of {network}", *images, unfolded=number == 0)


def detector_figures(path: Path, results: Sequence[Result]) -> dict[str, Figure]:
    """Histograms and ROC curves of every detector with stored scores, in the order of their rows."""
    directory, found = ResultsDirectory(path), {}
    for detector in dict.fromkeys(result.detector for result in results):
        rows = [result for result in results if (result.detector, result.setting) == (detector, SETTINGS[0])]
        stored = {seed: directory.scores(detector, seed) for seed in dict.fromkeys(result.seed for result in rows)}
        known = {seed: scores for seed, scores in stored.items() if scores is not None}
        for row in rows:
            _check_counts(path, row, known.get(row.seed))
        figure = detector_figure(rows, known)
        if figure is not None:
            found[detector] = figure
    return found


def _check_counts(path: Path, row: Result, scores: Mapping[str, Any] | None) -> None:
    """Raise PluginError if the stored scores of a row's data set, or of ID, are not as many as it says."""
    counts = {} if scores is None else {TEST: row.n_id, f"{row.group}/{row.dataset}": row.n_ood}
    for split, count in counts.items():
        if scores is not None and split in scores and len(scores[split]) != count:
            raise PluginError(
                f"results '{path}': '{row.detector}' has {len(scores[split])} scores of '{split}' and a row about"
                f" {count}; evaluate again"
            )


def _image(figure: Figure) -> Html:
    alternative = figure.texts[0].get_text().replace("\n", ", ")  # its title
    return html.image(rendered(figure, "png"), alternative)


def _provenance(results: Sequence[Result]) -> Html:
    """Each field of the provenance by seed; values that differ between detectors one after the other."""
    seeds = list(dict.fromkeys(result.seed for result in results))
    values: dict[str, dict[str, dict[str, None]]] = {}
    for result in results:
        for field, value in result.provenance.items():
            if field == ALTERNATIVES:  # a table of its own
                continue
            values.setdefault(field, {}).setdefault(result.seed, {})[_text(value)] = None
    rows = [["field", *(seed or "network" for seed in seeds)]]
    rows += [[field, *("; ".join(by_seed.get(seed, {})) for seed in seeds)] for field, by_seed in values.items()]
    return _wrapped("how the rows were made", rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _wrapped(caption: str, rows: Sequence[Sequence[str]]) -> Html:
    """A table of texts."""
    return element("div", html.table(caption, rows), class_="wrap")


def _all_rows(results: Sequence[Result]) -> Html:
    """Every line of results.jsonl."""
    every = {**METRICS, **OTHER_METRICS}
    header = ["detector", "setting", "group", "data set", "seed", *every.values(), "ID samples", "OOD samples"]
    rows = [
        [
            *(result.detector, result.setting, result.group, result.dataset, result.seed or "-"),
            *("-" if getattr(result, metric) is None else f"{getattr(result, metric):.2f}" for metric in every),
            *(str(result.n_id), str(result.n_ood)),
        ]
        for result in results
    ]
    return html.folded(f"{len(rows)} rows, one network each", html.table("in percent", [header, *rows], sortable=True))
