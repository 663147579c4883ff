"""``nci-ood score``: file, class, score, p-value and verdict of every image of a directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from nci_plugin.checks import PluginError, check_writable
from nci_plugin.cli import service
from nci_plugin.cli.service_commands import Score
from nci_plugin.deploy.calibration import level_of
from nci_plugin.deploy.score_log import ScoreLog
from nci_plugin.deploy.stream import image_names, listed_names, score_files
from nci_plugin.files import digest


def run(options: Score) -> int:
    if options.tpr is not None:
        level_of(options.tpr)
    output = options.csv or options.jsonl
    root, names = _names(options.images, options.data_root)
    first = next(names, None)
    if first is None and (output is None or not output.exists()):  # those that have rows may have been moved away
        raise _no_image(options)
    if output is not None:
        check_writable(output.parent)
    with redirect_stdout(sys.stderr):  # what is said of the checkpoint, or by the network's own file, is no row
        detector, job = service.network_of(options.detector, options.network, options.passing)
    if detector.fitted.preprocessing is None:
        raise PluginError(
            f"detector file '{options.detector}': was fitted on tensors, so how image files become the network's input"
            " is not known; fit it with preprocessing=, or on folders"
        )
    tpr = detector.fitted.level(options.tpr)
    detector.fitted.calibration.thresholds(tpr)  # too few samples for it are refused before the first row
    run_of = {
        "detector": digest(options.detector.read_bytes()),
        "images": str(options.images.resolve()),
        **({} if options.images.is_dir() else {"data_root": str(root.resolve())}),
        "tpr": tpr,
    }
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    names = chain([] if first is None else [first], names)
    with ScoreLog(output, "jsonl" if options.jsonl else "csv", run_of) as log:
        counts = score_files(detector, root, names, log, options.passing.batch_size, job.workers, tpr)
    if not counts.scored and not counts.before:
        raise _no_image(options)
    unreadable = f", {log.unreadable} of them without a score" if log.unreadable else ""
    before = f"; {counts.before} had their rows before{unreadable}" if counts.before else ""
    print(
        f"{counts.scored} images scored: {counts.ood} OOD, {counts.unreadable} could not be read{before}"
        f"{f'; written to {output}' if output else ''}",
        file=sys.stderr,
    )
    return 1 if counts.unreadable or log.unreadable else 0


def _no_image(options: Score) -> PluginError:
    return PluginError(f"'{options.images}': holds no image ({', '.join(IMG_EXTENSIONS)}); pass another folder")


def _names(images: Path, data_root: Path | None) -> tuple[Path, Iterator[str]]:
    """The directory that the names are relative to, and the names."""
    if images.is_dir():
        return images, image_names(images)
    if not images.is_file():
        raise PluginError(f"'{images}': is not there; pass a directory, an image or a text file of paths")
    if images.name.lower().endswith(IMG_EXTENSIONS):
        return images.parent, iter([images.name])
    root = data_root or images.parent
    return root, listed_names(images, root)
