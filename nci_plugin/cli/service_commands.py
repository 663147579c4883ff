"""The options of the commands for a service: a detector beside one network, fitted, run and watched."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from nci_plugin.cli.groups import Network, Pass, Service
from nci_plugin.cli.options import argument, command, group, option


@command("fit", "fit a detector to a network, calibrate it, and write it to a file")
@dataclass(frozen=True)
class Fit:
    """Fit a detector on training images and calibrate it on validation images that the network was not trained on, in
    one forward pass, and write one safetensors file for 'nci-ood score', 'nci-ood export' and OODDetector.load."""

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
    on: Service = group(Service)


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

    detectors: tuple[str, ...] | None = option(None, "rank these (those that it was measured for)", "NAME")
    seed: int = option(0, "of the cut of the validation images: half of them choose (0)", "N")
    on: Service = group(Service)


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
