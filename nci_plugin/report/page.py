"""One self-contained HTML page of a results directory, from Results, diagnosis files and stored scores alone."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.checks import printable
from nci_plugin.evaluation.alternatives import ALTERNATIVES
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.results import METRICS, OTHER_METRICS, SETTINGS, Result, complete
from nci_plugin.progress import progress
from nci_plugin.report.diagnosis_files import drawn_from, has_diagnosis, read_diagnoses, read_explanation
from nci_plugin.report.figures import draw_aurocs, rendered
from nci_plugin.report.names import display_name
from nci_plugin.report.score_figures import check_scores, detector_figure
from nci_plugin.report.standing_figure import Bounds, standing_figure
from nci_plugin.report.summary import (
    GLOSSARY,
    leaders,
    not_comparable,
    what_collapse_says,
    what_was_tested,
    who_leads,
)
from nci_plugin.report.tables import (
    MAIN_METRICS,
    alternatives_table,
    choices_rows,
    data_sets,
    detectors_by_near_auroc,
    mean_aurocs,
    setting_frame,
    setting_title,
)

if TYPE_CHECKING:  # torch, which a page without a diagnosis does without
    from nci_plugin.diagnosis.explanation import Explanation

TIES = "rank 2-4: no rank from 2 to 4 can be excluded by the scores at hand (DeLong and Holm, 5 %)"

DPI, SHADES = 90, 32
"""Of the images of the page, which are flat: a palette keeps them small, one that has rare colours too."""

Ranks = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By setting, group and detector."""

Intervals = Mapping[tuple[str, str, str], Bounds]
"""95 % intervals of AUROCs in percent, by setting, group and detector."""


def templates() -> Environment:
    """Those of the page: every text in them is escaped, and what of it cannot be printed is shown as escapes."""

    def escaped(value: Any) -> Markup:
        return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))

    loader = PackageLoader("nci_plugin.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=escaped)


def page(
    path: Path,
    results: Sequence[Result],
    scores: Mapping[str, Figure],
    ranks: Ranks | None = None,
    note: str = "",
    intervals: Intervals | None = None,
) -> str:
    """The HTML of ``results/<name>``, its rows and the figure of each detector; raises PluginError on damaged files.

    ``ranks`` show ties as ties, ``intervals`` are drawn in the chart, and ``note`` says why there are none. Figures are
    drawn from the stored files, and nothing is computed but their bins and curves.
    """
    explanation, diagnosis = None, None
    if has_diagnosis(path):
        with drawn_from(path):
            explanation = read_explanation(path)
            diagnosis = _diagnosis(path, explanation)
    collapse = [] if diagnosis is None else ["Neural collapse"]
    whole = complete(results)
    return (
        templates()
        .get_template("page.html")
        .render(
            title=f"{results[0].benchmark}: {path.resolve().name}",
            sections=["Summary", "Benchmark", *collapse, "Scores", "Hyper-parameters", "Provenance", "All rows"],
            summary=_summary(results, whole, explanation, ranks or {}, intervals or {}),
            glossary=GLOSSARY,
            left_out=sorted({each.detector for each in results} - {each.detector for each in whole}),
            settings=[
                _setting(whole, name, (ranks or {}).get(name, {}))
                for name in SETTINGS
                if detectors_by_near_auroc(whole, name)
            ],
            standings_note=note,
            aurocs=_image(draw_aurocs(whole)) if whole else None,
            diagnosis=diagnosis,
            scores=_images(scores),
            choices=choices_rows(results),
            alternatives=alternatives_table(results),
            provenance=_provenance(results),
            rows=_all_rows(results),
        )
    )


def _summary(
    results: Sequence[Result],
    whole: Sequence[Result],
    explanation: Explanation | None,
    ranks: Ranks,
    intervals: Intervals,
) -> dict[str, Any]:
    """What was tested, the three sentences and the chart, all of the first setting."""
    setting = results[0].setting
    of_setting = ranks.get(setting, {})
    bounds = {key[1:]: value for key, value in intervals.items() if key[0] == setting}
    near, far = (mean_aurocs(whole, group, setting) for group in (NEAR, FAR))
    first = {group: leaders(by_detector) for group, by_detector in of_setting.items()}
    few = [names for group, names in first.items() if 2 * len(names) <= len(of_setting[group])]  # else all are blue
    leading = {name for names in few for name in names}
    chart = standing_figure(near, far, bounds, leading)
    shown = [f"{display_name(name)} near {near[name]:.1f} far {far[name]:.1f}" for name in near if name in far]
    return {
        "tested": what_was_tested(results),
        "sentences": {
            "Which detectors lead": who_leads([each for each in whole if each.setting == setting], of_setting),
            "Neural collapse": what_collapse_says(explanation),
            "Not comparable": not_comparable(results, whole),
        },
        "chart": None if chart is None else {**_image(chart), "title": f"near and far AUROC (%): {'; '.join(shown)}"},
    }


def _images(scores: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    """The figure of each detector, while it is told how far they are."""
    with progress("draw", "detector", len(scores)) as bar:
        drawn = {}
        for detector, figure in scores.items():
            bar.set_postfix_str(detector)
            drawn[_named(detector)] = _image(figure)
            bar.update()
        return drawn


def _named(detector: str) -> str:
    """What a reader calls it, and the identifier where that is another."""
    name = display_name(detector).removesuffix(" (pytorch-ood)")  # which the identifier says
    return name if name == detector else f"{name} ({detector})"


def _setting(results: Sequence[Result], setting: str, ranks: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A table for each metric: those that are seen at once, and those that are folded; AUROCs beside their ranks."""
    sets = data_sets([result for result in results if result.setting == setting])
    headers = {group: f"{group} = {names[0]}" for group, names in sets.items() if len(names) == 1}
    frame = setting_frame(results, setting)
    frame = frame.rename(columns=lambda column: headers.get(column, column.rpartition("/")[2]), level=0)
    drawn: dict[str, list[list[str]]] = {}
    for metric in frame.columns.unique(level=1):
        cells = frame.xs(metric, axis=1, level=1)
        if metric == METRICS["auroc"]:
            of_groups = pd.DataFrame(ranks, index=cells.index).add_prefix("rank ").fillna("-")
            cells = pd.concat([cells, of_groups], axis=1)
        rows = ([_named(name), *row] for name, row in zip(cells.index, cells.to_numpy()))
        drawn[metric] = [["detector", *cells.columns], *rows]
    first = {METRICS[name]: drawn.pop(METRICS[name]) for name in MAIN_METRICS}
    notes = {METRICS["auroc"]: [TIES]} if ranks else {}
    return {"title": setting_title(results, setting), "first": first, "folded": drawn, "notes": notes}


def _diagnosis(path: Path, explanation: Explanation) -> dict[str, Any]:
    from nci_plugin.report.diagnosis_figures import figures
    from nci_plugin.report.diagnosis_tables import all_tables, class_table

    stored = read_diagnoses(path)
    by_network: dict[str, list[dict[str, str]]] = {}
    for name, figure in figures(path):
        by_network.setdefault(name.rpartition("/")[0], []).append(_image(figure))
    return {
        "sentences": explanation.sentences,
        "tables": all_tables([each.name for each in stored], [each.record for each in stored]),
        "classes": {each.name: class_table(each.name, each.record) for each in stored},
        "over_networks": by_network.pop("", []),
        "by_network": by_network,
    }


def detector_figures(path: Path, results: Sequence[Result]) -> dict[str, Figure]:
    """Histograms and ROC curves of every detector with stored scores, in the order of their rows."""
    directory, found = ResultsDirectory(path), {}
    for detector in dict.fromkeys(result.detector for result in results):
        rows = [result for result in results if (result.detector, result.setting) == (detector, SETTINGS[0])]
        stored = {seed: directory.scores(detector, seed) for seed in dict.fromkeys(result.seed for result in rows)}
        known = {seed: scores for seed, scores in stored.items() if scores is not None}
        for row in rows:
            if row.seed in known:
                check_scores(path, row, known[row.seed])
        figure = detector_figure(rows, known)
        if figure is not None:
            found[detector] = figure
    return found


def _image(figure: Figure) -> dict[str, Any]:
    """A PNG with a palette inside the page, its size in kB, and its title."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(rendered(figure, "png", DPI))) as drawn:
        flat = drawn.convert("RGB").quantize(SHADES, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        flat.save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    title = figure.texts[0].get_text().replace("\n", ", ") if figure.texts else ""
    return {
        "source": f"data:image/png;base64,{data}",
        "title": title,
        "kilobytes": -(-len(data) // 1000),
        "width": flat.width,
        "height": flat.height,
    }


def _provenance(results: Sequence[Result]) -> list[list[str]]:
    """Each field of the provenance by seed; values that differ between detectors one after the other."""
    seeds = list(dict.fromkeys(result.seed for result in results))
    values: dict[str, dict[str, dict[str, None]]] = {}
    for result in results:
        for field, value in result.provenance.items():
            if field == ALTERNATIVES:  # a table of its own
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            values.setdefault(field, {}).setdefault(result.seed, {})[text] = None
    rows = [["field", *(seed or "network" for seed in seeds)]]
    return rows + [[field, *("; ".join(by_seed.get(seed, {})) for seed in seeds)] for field, by_seed in values.items()]


def _all_rows(results: Sequence[Result]) -> list[list[str]]:
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
    return [header, *rows]
