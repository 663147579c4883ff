"""An Evaluation as a data frame, as a table and as a figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import Polygon
from sklearn.metrics import auc

from nci_plugin import Benchmark, Features, PluginError, evaluate
from nci_plugin.evaluation.drawn import DrawnFigure, _families, _say_missing, short_names
from nci_plugin.evaluation.evaluate import Evaluation
from nci_plugin.report.figures import draw_aurocs, rendered


@pytest.fixture(scope="module")
def evaluation():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.eye(3, 8) * 4
    train, test = (centres[labels] + torch.randn(60, 8, generator=generator) for _ in range(2))
    near, other = (torch.randn(40, 8, generator=generator) + shift for shift in (1, 0))
    benchmark = Benchmark.from_splits(
        "b", 3, train=Features(train, labels), test=Features(test, labels),
        near={"a_b": Features(near), "c": Features(other)}, far={"d|e": Features(other * 3)},
    )  # fmt: skip
    head = torch.nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(centres)
        head.bias.zero_()
    return evaluate(head, benchmark, ["msp", "nci", "mds_pp"], progress=False)


def test_a_frame_has_every_result(evaluation) -> None:
    frame = evaluation.to_frame()
    assert len(frame) == len(evaluation.results) == 3 * 5
    row = frame[(frame["detector"] == "nci") & (frame["dataset"] == "c")].iloc[0]
    (result,) = (each for each in evaluation.results if (each.detector, each.dataset) == ("nci", "c"))
    assert (row["auroc"], row["fpr95"], row["n_ood"]) == (result.auroc, result.fpr95, 40)


def test_tables_hold_the_numbers_best_first(evaluation) -> None:
    lines = evaluation.table().splitlines()
    assert lines[0] == r"| AUROC (%) | a_b | c | nearood | d\|e |"
    means = [sum(map(float, line.split(" | ")[1:3])) for line in (each.strip("| ") for each in lines[2:])]
    assert len(means) == 3
    for metric, sign in (("auroc", -1), ("fpr95", 1), ("fpr_at_id_tpr95", 1)):
        rows = [line.strip("| ").split(" | ") for line in evaluation.table(metric).splitlines()[2:]]
        assert rows == sorted(rows, key=lambda row: sign * float(row[3]))  # the mean of the near sets
    values = {result.dataset: result.auroc for result in evaluation.results if result.detector == "msp"}
    (msp,) = (line for line in lines if line.startswith("| msp "))
    assert f"{values['nearood']:.2f}" in msp
    latex = evaluation.table("fpr95", format="latex")
    assert r"FPR@95 (\%) & a\_b & c & nearood & d\textbar{}e \\" in latex
    assert latex.count("\n") == 8
    for arguments, message in ((("auroc", "fsood"), "none in the setting"), (("aurok",), "did you mean 'auroc'")):
        with pytest.raises(PluginError, match=message):
            evaluation.table(*arguments)
    with pytest.raises(PluginError, match="format"):
        evaluation.table(format="html")


def test_a_figure_and_what_is_printed(evaluation) -> None:
    axes = evaluation.plot().axes[0]
    assert {text.get_text() for text in axes.get_yticklabels()} == {"msp", "nci", "mds_pp"}
    assert repr(evaluation) == "Evaluation(3 detectors, OOD sets: a_b, c, d|e)"
    assert evaluation._repr_markdown_() == evaluation.table()


def test_a_notebook_shows_a_figure_though_pyplot_was_not_imported(evaluation) -> None:
    for drawn in (evaluation.plot(), evaluation.plot_roc(["nci"]), evaluation.plot_scores(["nci"])):
        assert drawn._repr_png_().startswith(b"\x89PNG")


def test_without_names_the_best_are_drawn(evaluation) -> None:
    names = [f"d{place}" for place in range(12)]
    rows = [replace(each, detector=name, auroc=each.auroc * (1 - 0.01 * place))
            for place, name in enumerate(names) for each in evaluation.results if each.detector == "nci"]  # fmt: skip
    many = Evaluation(rows[::-1], {name: evaluation.scores["nci"] for name in names[::-1]})
    assert [line.get_label() for line in many.plot_roc().axes[0].lines[:-1]] == names[:8]
    assert [axes.get_title() for axes in many.plot_scores().axes] == names[:9]


def test_a_summary_has_near_and_far_best_first(evaluation) -> None:
    summary = evaluation.summary()
    assert list(summary.columns) == ["near AUROC", "near FPR@95", "far AUROC", "far FPR@95"]
    assert list(summary["near AUROC"]) == sorted(summary["near AUROC"], reverse=True)
    values = {(each.detector, each.dataset): each for each in evaluation.results}
    assert summary.loc["nci", "near AUROC"] == values["nci", "nearood"].auroc
    assert summary.loc["msp", "far FPR@95"] == values["msp", "farood"].fpr95
    with pytest.raises(PluginError, match="none in the setting 'fsood'"):
        evaluation.summary("fsood")


def test_a_notebook_shows_the_summary_and_failures_escaped(evaluation) -> None:
    shown = Evaluation(evaluation.results, evaluation.scores, {"mine": "<b> is no number"})._repr_html_()
    assert f"{evaluation.summary().loc['nci', 'near AUROC']:.2f}" in shown
    assert "mine: &lt;b&gt; is no number" in shown
    assert "<table" not in Evaluation()._repr_html_()


def test_roc_curves_have_the_area_of_the_rows(evaluation) -> None:
    figure = evaluation.plot_roc(["nci", "msp"])
    panels = {axes.get_title().rsplit(", n", 1)[0]: axes for axes in figure.axes}
    assert list(panels) == ["near/a_b", "near/c", "far/d|e"]
    for each in evaluation.results:
        if each.detector != "mds_pp" and each.dataset not in ("nearood", "farood"):
            (line,) = (one for one in panels[f"{each.group}/{each.dataset}"].lines if one.get_label() == each.detector)
            assert auc(line.get_xdata(), line.get_ydata()) / 100 == pytest.approx(each.auroc)


def test_histograms_of_a_detector_share_their_bins(evaluation) -> None:
    figure = evaluation.plot_scores(["nci", "msp"])
    assert [axes.get_title() for axes in figure.axes] == ["nci", "msp"]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "ID test, n = 60", "near/a_b, n = 40", "near/c, n = 40", "far/d|e, n = 40"
    ]  # fmt: skip
    for axes in figure.axes:
        steps = [patch.get_xy()[:, 0] for patch in axes.patches if isinstance(patch, Polygon)]
        assert len(steps) == 3
        assert all(np.array_equal(each, steps[0]) for each in steps)
    for draw in (evaluation.plot_roc, evaluation.plot_scores):
        with pytest.raises(PluginError, match="did you mean 'nci'"):
            draw(["nco"])
    with pytest.raises(PluginError, match="at least one detector"):
        Evaluation().plot_scores()


def test_names_that_look_like_formulas_are_drawn_as_they_stand(evaluation) -> None:
    """A benchmark may call a set what it likes; matplotlib ends with an error where a formula is none."""
    names = {"a_b": "$_$", "c": "100 $ ^ $"}
    results = [replace(each, dataset=names.get(each.dataset, each.dataset)) for each in evaluation.results]
    scores = {
        detector: {split.replace("a_b", "$_$"): values for split, values in by_split.items()}
        for detector, by_split in evaluation.scores.items()
    }
    renamed = Evaluation(results, scores)
    for drawn in (renamed.plot(), renamed.plot_roc(), renamed.plot_scores()):
        assert drawn._repr_png_()


def test_numbers_of_a_logarithmic_axis_stay_formulas() -> None:
    drawn = DrawnFigure(3, 3)
    drawn.subplots().set(xscale="log", xlim=(1, 100), title="$a$")
    for _ in range(2):
        drawn._repr_png_()
    (axis,) = drawn.axes
    assert [axis.title.get_parse_math(), axis.get_xticklabels()[1].get_parse_math()] == [False, True]


LONG = "a_setting_of_the_detector_whose_name_says_that_alpha_is_{}_and_much_more_than_a_figure_has_room_for_in_it"


def test_figures_have_room_beside_long_names_and_tell_them_apart(evaluation) -> None:
    renamed = {"nci": LONG.format("a_hundredth"), "msp": LONG.format("a_thousandth")}
    rows = [replace(row, detector=renamed.get(row.detector, row.detector)) for row in evaluation.results]
    scores = {renamed.get(name, name): by_split for name, by_split in evaluation.scores.items()}
    long = Evaluation(rows, scores)
    for figure in (long.plot(), draw_aurocs(rows)):
        figure.draw_without_rendering()
        axes = figure.axes[0]
        shown = [label.get_text() for label in axes.get_yticklabels()]
        assert "mds_pp" in shown
        assert len(set(shown)) == 3
        assert axes.get_position().width > 0.4
    (roc,) = long.plot_roc().legends
    assert [len(text.get_text()) for text in roc.texts if "…" in text.get_text()] == [36, 36]
    assert short_names(["x" * 36]) == {"x" * 36: "x" * 36}
    assert list(short_names(["abcdefghijklmnopq"], 16).values()) == ["abcdefghi…lmnopq"]


def test_names_that_begin_with_an_underscore_are_in_the_legend(evaluation) -> None:
    rows = [replace(row, dataset=row.dataset.replace("a_b", "_b")) for row in evaluation.results]
    renamed = Evaluation(rows, {name.replace("nci", "_nci"): by_split for name, by_split in evaluation.scores.items()})
    assert " _b" in [text.get_text() for text in renamed.plot().axes[0].get_legend().texts]
    assert " _nci" in [text.get_text() for text in renamed.plot_roc(["_nci", "msp"]).legends[0].texts]


def test_a_name_is_drawn_by_the_fonts_that_have_its_letters(evaluation, caplog, recwarn) -> None:
    """ᶁ is in STIX, which comes with matplotlib, and not in its DejaVu Sans; no font has the letters of private use."""
    _say_missing.cache_clear()
    _families.cache_clear()
    for name, family in (("ᶁ", ["sans-serif", "STIXGeneral"]), ("\U0010fff0", ["sans-serif"]), ("ok", ["sans-serif"])):
        rows = [replace(row, detector=row.detector.replace("nci", name)) for row in evaluation.results]
        for kind in ("png", "svg"):
            figure = draw_aurocs(rows)
            rendered(figure, kind)
            labels = {text.get_text(): text.get_fontfamily() for text in figure.axes[0].get_yticklabels()}
            assert labels[name] == family
    assert [record.getMessage().count("no font of this machine") for record in caplog.records] == [1]
    assert not recwarn.list
