"""Figures for papers: their numbers are those of the tables, their text is text, their size the page's."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from command import command
from matplotlib.colors import to_hex
from result_rows import SEEDS, rows_of

from nci_plugin import figure
from nci_plugin.evaluation.results import Result
from nci_plugin.metrics import ood_metrics
from nci_plugin.report.paper_figures import (
    GRID,
    WIDTHS,
    auroc_figure,
    mean_curve,
    roc_figure,
    score_figure,
    style,
    written,
)

SPLITS = {"id/test": (2.0, 200), "near/cifar100": (1.0, 150), "near/tin": (0.0, 90), "far/mnist": (-1.0, 120)}
NAMES = ["nci", "msp"]


@pytest.fixture(scope="module")
def scores():
    generator = np.random.default_rng(0)
    return {
        name: {
            seed: {split: generator.normal(mean, 1, count) for split, (mean, count) in SPLITS.items()} for seed in SEEDS
        }
        for name in NAMES
    }


@pytest.fixture
def directory(tmp_path, scores):
    rows = [row for name in NAMES for seed in SEEDS for row in rows_of(name, seed=seed, n_id=200)]
    sizes = {split.split("/")[1]: count for split, (_, count) in SPLITS.items()}
    rows = [replace(row, n_ood=sizes.get(row.dataset, 1)) for row in rows]
    (tmp_path / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")
    for name, by_seed in scores.items():
        for seed, by_split in by_seed.items():
            (tmp_path / seed / "scores").mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / seed / "scores" / f"{name}.npz", **by_split)
    return tmp_path


def test_the_area_under_a_curve_is_the_auroc_of_the_tables(scores):
    """Mean over two near sets of different size, and over networks."""
    by_seed = scores["nci"]
    each = [
        ood_metrics(by_split["id/test"], by_split[split]).auroc
        for by_split in by_seed.values()
        for split in ("near/cifar100", "near/tin")
    ]
    curve = mean_curve(by_seed, "near")
    area = 100 * np.sum((curve[1:] + curve[:-1]) / 2 * np.diff(GRID))
    assert area == pytest.approx(np.mean(each), abs=0.05)


def test_histograms_share_bins_and_every_set_has_its_colour(scores):
    figure = score_figure(NAMES, scores)
    for axis, name in zip(figure.axes, ("NCI", "MSP")):
        assert axis.get_title() == name
        steps = [patch for patch in axis.patches if not hasattr(patch, "get_width")]
        assert len(steps) == 3
        assert len({to_hex(patch.get_edgecolor()) for patch in steps}) == 3
        edges = {tuple(np.unique(patch.get_xy()[:, 0])) for patch in steps}
        assert len(edges) == 1


@pytest.mark.parametrize("size", WIDTHS)
def test_size_and_fonts(scores, size):
    with style(size):
        for figure in (roc_figure(NAMES, scores, size), auroc_figure(rows_of("nci"), size)):
            assert figure.get_figwidth() == WIDTHS[size]
            assert figure._suptitle is None
            sizes = {text.get_fontsize() for axis in figure.axes for text in axis.get_xticklabels()}
            assert sizes == {14.0 if size == "slide" else 8.0}


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("title", ["One line", "Two\nlines"])
def test_a_title_takes_no_room_from_what_is_drawn(directory, size, title):
    heights = []
    for given in ("", title):
        drawn = figure("auroc", directory, size=size, title=given)
        drawn.draw_without_rendering()
        heights.append(drawn.axes[0].get_window_extent().height)
    assert heights[1] > 0.9 * heights[0]


def test_bars_end_at_100():
    results: list[Result] = [
        row for seed, far in zip(SEEDS, (90.0, 100.0, 100.0)) for row in rows_of("nci", 95.0, far, seed)
    ]
    figure = auroc_figure(results)
    assert figure.axes[0].get_xlim()[1] == 100
    ends = [point for bars in figure.axes[0].collections for path in bars.get_paths() for point in path.vertices[:, 0]]
    assert max(ends) <= 100


@pytest.mark.parametrize("kind", ["auroc", "roc", "scores"])
def test_the_command_draws_from_stored_records(directory, kind):
    code, out, err = command(["figure", kind, str(directory), "--format", "svg", "--title", "A $title$"])
    assert (code, err) == (0, "")
    first = (directory / f"figure_{kind}.svg").read_text(encoding="utf-8")
    assert len(re.findall(r"<text[^>]*>", first)) > 5
    assert "NCI</text>" in first
    assert "A $title$</text>" in first
    assert command(["figure", kind, str(directory), "--format", "svg", "--title", "A $title$"])[0] == 0
    assert (directory / f"figure_{kind}.svg").read_text(encoding="utf-8") == first
    assert "s0" in out


def test_the_command_refuses_what_it_cannot_draw(directory):
    assert (
        "unknown detector of these results 'ncj'" in command(["figure", "roc", str(directory), "--detectors", "ncj"])[2]
    )
    (directory / "s1" / "scores" / "msp.npz").unlink()
    code, _, err = command(["figure", "roc", str(directory)])
    assert code == 2
    assert "have no scores of 'msp' s1; evaluate it again" in err
    assert not list(directory.glob("figure_*"))


def test_a_figure_is_written_in_the_format_of_its_name(directory):
    """``--output roc.svg`` was a PDF."""
    for name, start in (("roc.svg", b"<?xml"), ("roc.PNG", b"\x89PNG"), ("roc.pdf", b"%PDF")):
        assert command(["figure", "roc", str(directory), "--output", str(directory / name)])[0] == 0
        assert (directory / name).read_bytes().startswith(start)
    for name, flags in (("roc.svg", ["--format", "pdf"]), ("roc.jpg", []), ("roc", [])):
        code, _, err = command(["figure", "auroc", str(directory), "--output", str(directory / name), *flags])
        assert (code, err.count("\n")) == (2, 1)
        assert "--output: must be a file named .pdf" in err


def test_pdf_embeds_text(scores):
    with style("column"):
        content = written(roc_figure(NAMES, scores), "pdf")
    assert content.startswith(b"%PDF")
    assert b"CIDFontType2" in content
    assert b"CreationDate" not in content


def test_long_names_are_short_and_the_caption_says_whose_they_are(directory):
    rows = (directory / "results.jsonl").read_text(encoding="utf-8")
    others = "".join(f"{row.to_json()}\n" for seed in SEEDS for row in rows_of("pytorch_ood:vim", seed=seed, n_id=200))
    (directory / "results.jsonl").write_text(rows + others, encoding="utf-8")
    drawn = figure("auroc", directory)
    assert {text.get_text() for text in drawn.axes[0].get_yticklabels()} == {"NCI", "MSP", "ViM†"}
    assert drawn.caption.endswith("; †: pytorch-ood's implementation")
    assert figure("auroc", directory, detectors=NAMES).caption.endswith("over s0, s1, s2")
