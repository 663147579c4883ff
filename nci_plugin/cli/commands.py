"""The options of every sub-command, one frozen dataclass each: what ``nci-ood`` can be asked to do.

Nothing heavy is imported here, since every ``--help`` is made of it. `main` says how a sub-command is written.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, dataclass
from pathlib import Path

from nci_plugin.cli.groups import DEVICE, RESULTS, Data, Network, Pass, Steps
from nci_plugin.cli.options import argument, command, group, option

FOLDER = "or a folder of train/, val/, test/ with one sub-folder a class, and near/, far/ with one an OOD set"
IMAGES = (
    "training images: a folder with one sub-folder a class (or with train/ and val/ of such), a list of lines 'path"
    " label', or the name or YAML file of a benchmark, whose validation images calibrate"
)


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
        (), "columns of the printed tables, of the metrics of 'nci-ood compare' (auroc fpr95)", "NAME"
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
    metric: str = option(
        "auroc",
        "auroc (default), fpr95, fpr_at_id_tpr95, aupr_in, aupr_out, aurc, augrc, autc, csid_auroc or csid_rejection",
        "NAME",
    )
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
        " run, or directories with trajectory.jsonl, of which nothing is measured",
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
    tpr: float = option(95.0, "share of ID validation samples to be kept (95)", "PERCENT")
    network: Network = group(Network)
    data: Data = group(Data, without=("fsood",))
    passing: Pass = group(Pass, without=("amp",))


@command("fit", "fit a detector to a network, calibrate it, and write it to a file")
@dataclass(frozen=True)
class Fit:
    """Fit a detector on training images and calibrate it on validation images that the network was not trained on, in
    one forward pass, and write one safetensors file for 'nci-ood score', 'nci-ood export' and OODDetector.load."""

    images: str = argument("IMAGES", IMAGES)
    val: Path | None = option(None, "validation images, as a folder or list like IMAGES (IMAGES/val)", "PATH")
    detectors: tuple[str, ...] = option(
        ("nci_plus",),
        "names or YAML files, of several a file each; or 'recommended', what 'nci-ood recommend' puts first (nci_plus)",
        "NAME",
    )
    output: Path = option(Path("detector.safetensors"), "the file (detector.safetensors)", "FILE")
    tpr: float = option(0.95, "share of ID images to be kept, 0 to 1 (0.95)", "X")
    by_class: bool = option(False, "calibrate within every predicted class that has enough validation images")
    seed: int = option(0, "of the cut of the validation images, and of --bank-rows (0)", "N")
    bank_rows: int | None = option(None, "training features that KNN keeps (all)", "N")
    class_names: tuple[str, ...] | None = option(
        None, "names of the classes, in order, or a text file of them, one a line (the sub-folders')", "NAME"
    )
    steps: Steps = group(Steps)
    data_root: Path | None = option(None, "directory that the paths in image lists are relative to (the list's)", "DIR")
    network: Network = group(Network)
    passing: Pass = group(Pass, without=("amp",))


@command("score", "say of every image in a directory whether it is OOD")
@dataclass(frozen=True)
class Score:
    """Score image files with a detector that 'nci-ood fit' wrote: file, predicted class, score (larger = ID), p-value
    and verdict, in rows that are written as they come. Started again, it goes on where it was stopped. Exit code 1
    where an image could not be read."""

    images: Path = argument("IMAGES", "a directory, an image, or a text file of paths")
    detector: Path = option(MISSING, "the file of 'nci-ood fit'", "FILE")
    csv: Path | None = option(None, "write the rows to this file (standard output)", "FILE", one_of="output")
    jsonl: Path | None = option(None, "write them as lines of JSON to this file", "FILE", one_of="output")
    tpr: float | None = option(None, "share of ID images to be kept, 0 to 1 (the detector's)", "X")
    data_root: Path | None = option(None, "directory that the paths in a list are relative to (the list's)", "DIR")
    network: Network = group(Network, without=("head",))
    passing: Pass = group(Pass, without=("amp",))


@command("recommend", "say which detector to use for a network, without OOD images")
@dataclass(frozen=True)
class Recommend:
    """Rank detectors for a network by how well each tells its ID validation images from pseudo-OOD samples that are
    made of their features, and say how often that ranking was right on networks where the truth is known."""

    images: str = argument("IMAGES", IMAGES)
    val: Path | None = option(None, "validation images, as a folder or list like IMAGES (IMAGES/val)", "PATH")
    detectors: tuple[str, ...] | None = option(None, "rank these (those that it was measured for)", "NAME")
    seed: int = option(0, "of the cut of the validation images: half of them choose (0)", "N")
    steps: Steps = group(Steps)
    data_root: Path | None = option(None, "directory that the paths in image lists are relative to (the list's)", "DIR")
    network: Network = group(Network)
    passing: Pass = group(Pass, without=("amp",))


@command("export", "write a network and its detector as one graph")
@dataclass(frozen=True)
class Export:
    """Write a network and its detector as one graph from preprocessed images to logits, score and verdict, and compare
    it with the detector on real images: scores within 1e-4 of max(1, |score|), else no file is left."""

    detector: Path = argument("DETECTOR", "the file of 'nci-ood fit'")
    to: str = option(MISSING, "onnx, or export: a program of torch.export", "FORMAT", choices=("onnx", "export"))
    images: Path = option(MISSING, "images to compare on: a directory (64 of them are taken)", "DIR")
    output: Path | None = option(None, "the file (DETECTOR.onnx, DETECTOR.pt2)", "FILE")
    tpr: float | None = option(None, "share of ID images to be kept, 0 to 1 (the detector's)", "X")
    network: Network = group(Network, without=("head",))
    device: str = option("cpu", "auto, cuda, cuda:N, mps or cpu (cpu)")


@command("drift", "compare the scores of new images with those of the validation images")
@dataclass(frozen=True)
class Drift:
    """Compare a window of scores that 'nci-ood score' wrote with the calibration scores of its detector: the share
    called OOD with its interval, and a Kolmogorov-Smirnov test. Exit code 1 where they have drifted."""

    scores: Path = argument("SCORES", "a file of 'nci-ood score', CSV or lines of JSON")
    detector: Path = option(MISSING, "the file of 'nci-ood fit'", "FILE")
    last: int | None = option(None, "the last so many scores (all)", "N")
    tpr: float | None = option(None, "share of ID images to be kept, 0 to 1 (the detector's)", "X")
    confidence: float = option(0.95, "of the intervals and the tests, 0 to 1 (0.95)", "X")
    figure: Path | None = option(None, "also draw the p-values, as PNG or SVG", "FILE")


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
    format: str = option("pdf", "pdf (default), svg or png of 300 dpi", choices=("pdf", "svg", "png"))
    title: str | None = option(None, "a title over it (none)", "TEXT")
    output: Path | None = option(None, "the file (RESULTS/figure_FIGURE.FORMAT)", "FILE")


@command("train", "train the checkpoints of the built-in benchmark")
@dataclass(frozen=True)
class Train:
    """Train the networks s0, s1, s2 of the built-in benchmark digits; those that are there stay."""

    benchmark: str = argument("BENCHMARK", "digits or digits_lt")
    regime: str = option(
        "standard",
        "standard; overfit: Adam without augmentation or weight decay, to zero training error; or long_tailed:"
        " standard, on digits_lt (standard)",
        "NAME",
    )
    loss: str | None = option(
        None, "ce, mse, ce_then_mse (40 %% and 60 %% of the epochs), label_smoothing or focal (ce)", "NAME"
    )
    network: str = option("resnet", "resnet, or mlp on 8x8 pixels (resnet)", "NAME")
    head: str | None = option(None, "learned, bias_free, or fixed_etf: frozen simplex ETF, no bias (learned)", "KIND")
    width: int | None = option(None, "channels of resnet's first stage, or units of mlp (16, 128)", "N")
    depth: int | None = option(None, "blocks of each of resnet's stages, or hidden layers (2, 3)", "N")
    activation: str | None = option(None, "of mlp: relu, gelu, silu or tanh (relu)", "NAME")
    weight_decay: float | None = option(None, "(the regime's)", "X")
    epochs: int | None = option(None, "(the regime's)", "N")
    save_every: int | None = option(None, "also keep the checkpoints of every N epochs", "N")
    seeds: tuple[int, ...] | None = option(None, "which networks to train (0 1 2)", "N")
    output: Path | None = option(None, "where to write s*/best.ckpt (results/<name>)", "DIR")
    data_root: Path | None = option(None, "images and lists (data)", "DIR")
    device: str = option("auto", DEVICE)


@command("run", "run a script of OpenOOD with this package's postprocessors")
@dataclass(frozen=True)
class Run:
    """Run a script of OpenOOD as it is, with or without a GPU, where this package's detectors are postprocessors, e.g.
    nci-ood run scripts/eval_ood.py --root results/... --postprocessor neco"""

    script: str = argument("SCRIPT", "in the working directory, else in OpenOOD's checkout")
    arguments: tuple[str, ...] = argument("...", "the script's own arguments", nargs=argparse.REMAINDER)
    device: str = option("auto", DEVICE)
    trust_pickles: bool = option(
        False, "let the script unpickle what it finds; that can run any code", one_of="pickles"
    )
    fresh: bool = option(False, "first move aside the pickles of earlier runs that it would read", one_of="pickles")


@command("list", "list benchmarks and detectors, with their papers")
@dataclass(frozen=True)
class List:
    """List benchmarks and detectors, with their papers."""

    openood: bool = option(False, "list OpenOOD's own methods, and how each is used")
    json: bool = option(False, "print JSON: a list of entries for every group")


@command("doctor", "say what is installed and found, and what of it does not work")
@dataclass(frozen=True)
class Doctor:
    """Print versions, device, free memory and disk, whether OpenOOD is found and can be imported, and which benchmarks
    have their data and checkpoints. Exit code 1 if something that is there does not work."""


@command("validate", "check benchmark and detector configs")
@dataclass(frozen=True)
class Validate:
    """Check benchmarks and detectors, by name or YAML file; with --data-root also every list and image."""

    configs: tuple[str, ...] = argument("CONFIG", "names or YAML files")
    data_root: Path | None = option(None, "check that all lists and images are there", "DIR")


@command("install", "copy nci_plugin into a checkout of OpenOOD")
@dataclass(frozen=True)
class Install:
    """Copy the package, its YAML files and scripts into a checkout of OpenOOD; again = update."""

    into: Path = option(MISSING, "the checkout of OpenOOD", "DIR")
    remove: bool = option(False, "take away what was installed there")
    force: bool = option(False, "overwrite, or remove, files that were changed too")
    dry_run: bool = option(False, "list what would be done")
