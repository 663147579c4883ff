"""`figure`: one figure of stored results, in the size and the style of a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.text import Text

from nci_plugin.checks import PluginError, check_choice
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.results import Result
from nci_plugin.evaluation.run import Run
from nci_plugin.report.figures import MOST
from nci_plugin.report.paper_figures import DAGGER, FONTS, WIDTHS, Scores, auroc_figure, roc_figure, score_figure, style
from nci_plugin.report.score_figures import check_scores
from nci_plugin.report.tables import detectors_by_near_auroc

if TYPE_CHECKING:
    from nci_plugin.report.paper_figures import PaperFigure

KINDS = ("auroc", "roc", "scores", "collapse", "layers", "dynamics")
BEST = {"roc": 6, "scores": 3}
"""Detectors of curves and of histograms where none are named."""


def figure(
    kind: str,
    results: str | Path,
    *,
    detectors: Sequence[str] | None = None,
    size: str = "column",
    title: str | None = None,
) -> PaperFigure:
    """Draw one figure from stored records, as ``nci-ood figure`` does: nothing is computed but bins and curves.

    Args:
        kind: ``auroc``, ``roc`` or ``scores``, of standard OOD, from what ``nci-ood eval`` or `evaluate` stored;
            ``collapse`` or ``layers``, from what ``nci-ood diagnose`` stored beside it; ``dynamics``, from the
            directory of ``nci-ood dynamics`` or of one of its runs.
        results: that directory.
        detectors: those that are drawn, by name. Without them ``roc`` draws the six and ``scores`` the three of best
            near-OOD AUROC, the others all. ``collapse`` has none.
        size: ``column`` (3.3 inches) or ``page`` (6.9), both in 8 pt, or ``slide`` (10 inches, 14 pt).
        title: over the figure; without one there is none.

    Returns:
        A Figure of matplotlib. Its ``savefig`` keeps text as text in PDF and SVG, and its ``caption`` is what a caption
        has to say.

    Raises PluginError on a directory that lacks what is to be drawn, and on names that it does not know.
    """
    check_choice("figure", kind, KINDS)
    check_choice("size", size, tuple(WIDTHS))
    path = Path(results)
    if kind == "collapse" and detectors:
        raise PluginError("figure 'collapse': shows no detectors, got some; leave them out")
    with style(size):
        if kind in ("auroc", "roc", "scores"):
            drawn = _of_results(kind, path, detectors, size)
        else:
            from nci_plugin.report import paper_collapse as of  # imports torch

            if kind == "dynamics":
                drawn = of.of_trajectories(path, size=size, detectors=detectors)
            elif kind == "layers":
                drawn = of.of_diagnoses(path, of.layers_figure, size=size, detectors=detectors)
            else:
                drawn = of.of_diagnoses(path, of.collapse_figure, size=size)
        if title:
            room = 2 * FONTS[size] / 72 * len(title.splitlines())
            drawn.set_figheight(drawn.get_figheight() + room)
            drawn.suptitle(title)
    return drawn


def _of_results(kind: str, path: Path, detectors: Sequence[str] | None, size: str) -> PaperFigure:
    results = [result for result in Run.read(path).rows(detectors) if result.setting == "ood"]
    if not results:
        raise PluginError(f"results '{path}': have no rows of standard OOD; evaluate without --fsood")
    if kind == "auroc":
        drawn = auroc_figure(results, size)
    else:
        ordered = detectors_by_near_auroc(results, "ood")
        names = list(dict.fromkeys(detectors)) if detectors else ordered[: BEST[kind]]
        if len(names) > MOST:
            raise PluginError(f"detectors: {kind} can tell {MOST} apart, got {len(names)}; name fewer")
        draw = roc_figure if kind == "roc" else score_figure
        drawn = draw(names, _scores(path, results, names), size)
    marked = any(DAGGER in text.get_text() for text in drawn.findobj(Text))
    of_others = f"; {DAGGER}: pytorch-ood's implementation" if marked else ""
    drawn.caption = f"{results[0].benchmark}, standard OOD; {_networks(kind, results)}{of_others}"
    return drawn


def _networks(kind: str, results: Sequence[Result]) -> str:
    seeds = [seed for seed in dict.fromkeys(result.seed for result in results) if seed]
    if kind == "scores" and seeds:
        return f"scores of the network {seeds[0]}"
    if len(seeds) < 2:
        return "one network"
    return f"{'mean ± std' if kind == 'auroc' else 'mean'} over {', '.join(seeds)}"


def _scores(path: Path, results: Sequence[Result], names: Sequence[str]) -> Scores:
    """Stored scores of every network; raises PluginError where some are missing, or others than the rows are about."""
    directory = ResultsDirectory(path)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results:
        if row.detector not in names:
            continue
        by_seed = scores.setdefault(row.detector, {})
        if row.seed not in by_seed:
            found = directory.scores(row.detector, row.seed)
            if found is None:
                raise PluginError(f"results '{path}': have no scores of '{row.detector}' {row.seed}; evaluate it again")
            by_seed[row.seed] = found
        check_scores(path, row, by_seed[row.seed])
    return scores
