"""The options of every sub-command, one frozen dataclass each: what ``nci-ood`` can be asked to do.

Nothing heavy is imported here, since every ``--help`` is made of it. `main` says how a sub-command is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nci_plugin.cli.groups import RESULTS, Data, Network, Pass
from nci_plugin.cli.options import argument, command, group, option

FIGURE_FORMATS = ("pdf", "svg", "png")

FOLDER = "or a folder of train/, val/, test/ with one sub-folder a class, and near/, far/ with one an OOD set"


@command("eval", "evaluate detectors on a benchmark")
@dataclass(frozen=True)
class Eval:
    """Pass every image of a benchmark through a network once, then score every detector."""

    benchmark: str | None = argument(
        "BENCHMARK",
        "a name (see 'nci-ood list'), a YAML file, or 'all': every one of OpenOOD's that is there (all, else digits);"
        f" {FOLDER}",
        default=None,
    )
    detectors: tuple[str, ...] = option(("all",), "names or YAML files (all)", "NAME")
    network: Network = group(Network)
    data: Data = group(Data)
    passing: Pass = group(Pass)
    metrics: tuple[str, ...] = option(
        (), "columns of the printed tables (auroc fpr95); one that is not known lists them all", "NAME"
    )
    wide: bool = option(False, "columns of auroc, fpr95, aupr_in and aupr_out")
    data_sets: bool = option(False, "columns of every OOD data set beside the means of near and far")
    intervals: bool = option(False, "print every mean with its 95 %% interval (none)")
    ood_share: float = option(0.5, "share of OOD inputs for aurc and augrc (0.5)", "X")
    save_csv: bool = option(False, "CSV files, which are always written")
    save_score: bool = option(False, "scores for OpenOOD too, as s*/scores/<detector>.pkl")
    without: tuple[str, ...] = option((), "leave out these of --detectors (none)", "NAME")


@command("compare", "say which detectors differ by more than chance, with intervals")
@dataclass(frozen=True)
class Compare:
    """Compare detectors on the scores that 'nci-ood eval' stored, pair by pair on the same images: AUROC by DeLong's
    test with Holm's adjustment, other metrics by a stratified paired bootstrap with step-down max-T; over five
    benchmarks or more Friedman's test with Conover-Holm."""

    results: tuple[Path, ...] = argument("RESULTS", "directories that 'nci-ood eval' wrote to")
    detectors: tuple[str, ...] | None = option(
        None, "compare these alone (all that were scored for every seed)", "NAME"
    )
    against: str | None = option(None, "compare every other detector with this one (every pair)", "NAME")
    metric: str = option("auroc", "auroc (default), or another; one that is not known lists them all", "NAME")
    setting: str = option("ood", "standard (default) or full spectrum", choices=("ood", "fsood"))
    these_networks: bool = option(False, "intervals about these seeds' networks alone (and over networks)")
    ood_share: float = option(0.5, "share of OOD inputs for aurc and augrc (0.5)", "X")
    replicates: int = option(1000, "bootstrap replicates, at least 1000 (1000)", "B")
    seed: int = option(0, "of the bootstrap's draws (0)")
    worst_groups: bool = option(False, "also name the five worst classes of every detector")
    json: Path | None = option(None, "also write every number to this file", "FILE")
    figure: Path | None = option(None, "also draw forest and critical-difference figures in this directory", "DIR")


@command("diagnose", "measure neural collapse, and what it says of OOD samples")
@dataclass(frozen=True)
class Diagnose:
    """Measure neural collapse (NC1 to NC5) in the networks that 'eval' would evaluate, score one detector for each
    property, and draw the figures."""

    benchmark: str = argument(
        "BENCHMARK",
        "a name (see 'nci-ood list') or a YAML file; or the results directory of an earlier diagnosis, which is printed"
        f" and drawn again from its files; {FOLDER}",
    )
    layers: bool = option(False, "also measure every stage of the network")
    second_pass: bool = option(
        False, "measure NC4 on the training set with a second pass over it, where its features are not stored"
    )
    network: Network = group(Network)
    data: Data = group(Data, without=("fsood",))
    passing: Pass = group(Pass, without=("amp",))


@command("dynamics", "follow collapse and detection along training")
@dataclass(frozen=True)
class Dynamics:
    """Measure collapse and OOD detection at the epoch checkpoints of trainings, and find the onset of collapse and,
    with several runs, what foretells it."""

    paths: tuple[Path, ...] = argument(
        "CHECKPOINTS",
        "directories of epoch checkpoints (epoch-10_....ckpt, epoch_010.pth; s0, s1 ... in one are runs), files of one"
        " run, or directories with trajectory.jsonl and such files, of which nothing is measured",
    )
    benchmark: str | None = option(
        None, "a name or a YAML file (what the training says it was trained on)", "BENCHMARK"
    )
    detectors: tuple[str, ...] | None = option(None, "(nci, pscore, feature_norm, msp and neco)", "NAME")
    condition: tuple[str, ...] = option((), "conditions of the runs, e.g. depth=4", "NAME=VALUE")
    metric: str = option("nc1_quotient", "of the onset (nc1_quotient)", "NAME")
    threshold: float = option(0.01, "of the onset (0.01)", "X")
    above: bool = option(False, "the metric rises above the threshold (falls below)")
    sustained: int = option(3, "for so many logged epochs (3)", "N")
    phase: str = option("last", "of the training, in which the onset is looked for (last)", "NAME")
    network: Network = group(Network, without=("ckpt_path",))
    data: Data = group(Data, without=("fsood",))
    passing: Pass = group(Pass, without=("amp",))


@command("explain", "say how one image stands to a network's training set")
@dataclass(frozen=True)
class Explain:
    """Score one image with each network: predicted class, nearest class mean, pScore, feature norm and the five
    collapse scores, their percentiles among ID validation samples, and the verdict of each."""

    image: Path = argument("IMAGE", "an image file")
    benchmark: str = argument("BENCHMARK", f"a name or YAML file: the training and validation images; {FOLDER}")
    detectors: tuple[str, ...] | None = option(None, "names or YAML files (nc1 to nc5, pscore, feature_norm)", "NAME")
    tpr: float = option(0.95, "share of ID validation samples to be kept, 0 to 1 (0.95)", "X")
    network: Network = group(Network)
    data: Data = group(Data, without=("fsood",))
    passing: Pass = group(Pass, without=("amp",))


@command("report", "write the results, and a diagnosis beside them, as one HTML page")
@dataclass(frozen=True)
class Report:
    """Write a page that needs nothing beside it: tables to sort, hyper-parameters, the diagnosis where one was made,
    the scores of every detector, and where the numbers come from."""

    results: Path = argument("RESULTS", RESULTS)
    output: Path | None = option(None, "the page (RESULTS/report.html)", "FILE")
    figures: bool = option(False, "also write each detector's figure to RESULTS/detectors, as PNG and SVG")


@command("table", "write the tables of results as text, markdown or LaTeX")
@dataclass(frozen=True)
class Table:
    """Print the tables of stored results, near and far AUROC and FPR@95 of every detector, or those of a diagnosis.
    Bold (in text: a star) is an AUROC than which none is better by more than chance, and not the largest digit."""

    results: Path = argument("RESULTS", RESULTS)
    format: str = option(
        "text", "text (default), markdown, or latex with booktabs", choices=("text", "markdown", "latex")
    )
    of: str = option(
        "results",
        "results (default), or what 'nci-ood diagnose' left there: collapse, ood, layers or classes",
        choices=("results", "collapse", "ood", "layers", "classes"),
    )
    detectors: tuple[str, ...] | None = option(None, "detectors to be rows, and compared (all)", "NAME")
    setting: str | None = option(None, "standard or full spectrum (both)", choices=("ood", "fsood"))
    wide: bool = option(False, "columns of auroc, fpr95, aupr_in and aupr_out")
    data_sets: bool = option(False, "columns of every OOD data set beside the means of near and far")


@command("figure", "draw one figure of results for a paper or a slide")
@dataclass(frozen=True)
class Figure:
    """Draw the AUROC of detectors, their ROC curves or the histograms of their scores, from stored results and scores
    of standard OOD; the collapse of networks or of their layers, from stored diagnoses; or trainings. 8 pt at the width
    of a column or a page, 14 pt on a slide; text stays text in SVG and PDF."""

    kind: str = argument(
        "FIGURE",
        "auroc, roc, scores, collapse, layers or dynamics",
        choices=("auroc", "roc", "scores", "collapse", "layers", "dynamics"),
    )
    results: Path = argument(
        "RESULTS", f"{RESULTS}, for collapse and layers 'nci-ood diagnose' too, for dynamics 'nci-ood dynamics'"
    )
    detectors: tuple[str, ...] | None = option(
        None, "detectors that are drawn (all; roc: the six of best near-OOD AUROC; scores: three)", "NAME"
    )
    size: str = option(
        "column", "column: 3.3 inches (default); page: 6.9; slide: 10", choices=("column", "page", "slide")
    )
    format: str | None = option(
        None, "pdf, svg or png of 300 dpi (as --output is named, else pdf)", choices=FIGURE_FORMATS
    )
    title: str | None = option(None, "a title over it (none)", "TEXT")
    output: Path | None = option(None, "the file (RESULTS/figure_FIGURE.FORMAT)", "FILE")
