"""Scores of any number of image files, in flat memory, into a file that a kill leaves whole (`ScoreLog`)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from nci_plugin.benchmarks.decoding import Preprocessing, needed, read_image
from nci_plugin.benchmarks.folder import DEEPEST
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError, RowError, errors_begin, one_line
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.images import stacked
from nci_plugin.deploy.score_log import COLUMNS, ScoreLog, as_text, hash_of
from nci_plugin.progress import progress

ID, OOD = "ID", "OOD"


@dataclass
class Counts:
    """Images of a run: those that have a row already, those scored now, and of these the OOD and unreadable ones."""

    before: int = 0
    scored: int = 0
    ood: int = 0
    unreadable: int = 0


def image_names(root: Path, folder: str = "", above: Sequence[tuple[int, int]] = ()) -> Iterator[str]:
    """Paths, relative to a directory, of the images in a ``folder`` of it and below, as the system lists them.

    Neither images nor folders are kept: as many directories are open as lie in one another. A folder that is gone by
    the time that it is opened holds none. Raises PluginError on a link that leads back to one of those ``above`` it,
    before an image has a second name, and on more than `DEEPEST` folders in one another.
    """
    if folder.count("/") > DEEPEST:
        raise PluginError(f"folder '{root}': '{folder}' lies deeper than {DEEPEST} folders; pass one below it")
    try:
        found = os.stat(root / folder)
        listed = os.scandir(root / folder)
    except FileNotFoundError:
        if not folder:
            raise
        return
    here = found.st_dev, found.st_ino
    with listed as entries:
        if here in above:
            raise PluginError(
                f"folder '{root}': the link '{folder[:-1]}' leads back to a folder that it is in; take it away"
            )
        for entry in entries:
            name = f"{folder}{entry.name}"
            if _is_folder(entry):
                yield from image_names(root, f"{name}/", [*above, here])
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                yield name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: that it cannot be read is said in its row
        return False


def listed_names(path: Path, root: Path) -> Iterator[str]:
    """The images below ``root`` that a text file names, one a line, alone or with a label behind, as OpenOOD's lists.

    Raises PluginError on what is no text, and on a path that leaves ``root`` (see `ImageList`).
    """
    no_steps = Preprocessing(None, None, ((0.0,) * 3, (1.0,) * 3))
    return _once(ImageList(os.path.abspath(path), "", no_steps, root).paths())


def _once(names: Iterable[str]) -> Iterator[str]:
    seen: set[int] = set()  # an image that is named twice has one row, as after a resume
    for name in names:
        if (number := hash_of(as_text(name))) not in seen:
            seen.add(number)
            yield name


def score_files(
    detector: OODDetector,
    root: Path,
    names: Iterable[str],
    log: ScoreLog,
    batch_size: int = 200,
    workers: int = 1,
    tpr: float | None = None,
    shown: bool = True,
) -> Counts:
    """Score the images ``names``, relative to ``root``, that have no row in ``log`` yet.

    An image that cannot be read, or gives NaN, gets a row with the reason and no score; the others go on. ``workers``
    threads decode the next batch while the network works on one. How far it is, is ``shown`` on standard error.
    Raises PluginError where the network fails, or ``root`` is no longer there: that is no image's fault, and the batch
    gets no rows.
    """
    steps = needed(detector.fitted.preprocessing, "an image file")
    counts = Counts(before=log.rows)

    def decoded(name: str) -> Tensor | PluginError:
        try:
            return read_image(root / name, steps, "replace the file")
        except PluginError as error:
            return error

    new = (name for name in names if name not in log)
    with ThreadPoolExecutor(max(1, workers)) as pool, progress("score", "img", None, shown) as bar:
        under_way: tuple[list[str], list[Future[Tensor | PluginError]]] | None = None
        # One more batch, which is empty, so that the last one is waited for too.
        for batch in chain(iter(lambda: list(islice(new, batch_size)), []), [[]]):
            started = batch, [pool.submit(decoded, name) for name in batch]
            if under_way is not None:
                waiting, images = under_way[0], [each.result() for each in under_way[1]]
                if any(isinstance(image, PluginError) for image in images):
                    _check_there(root)
                rows = _rows(detector, waiting, images, tpr)
                log.append(rows)
                counts.scored += len(rows)
                counts.ood += sum(row["verdict"] == OOD for row in rows)
                counts.unreadable += sum(row["error"] != "" for row in rows)
                bar.update(len(rows))
            under_way = started if batch else None
    return counts


def _check_there(root: Path) -> None:
    """Raise PluginError on a directory that is gone, or empty, as where a disk was that is no longer mounted."""
    with suppress(OSError), os.scandir(root) as entries:
        if next(entries, None) is not None:
            return
    raise PluginError(f"folder '{root}': is no longer there, or empty; put it back, and run the same command again")


def _rows(
    detector: OODDetector, names: list[str], images: list[Tensor | PluginError], tpr: float | None
) -> list[dict[str, Any]]:
    """One row a name, in order."""
    good = [image for image in images if isinstance(image, Tensor)]
    with errors_begin(f"image '{one_line(names[0])}' and those scored with it"):
        answers = iter(_answers(detector, good, tpr))
    return [
        _row(name, image if isinstance(image, PluginError) else next(answers)) for name, image in zip(names, images)
    ]


def _answers(detector: OODDetector, images: list[Tensor], tpr: float | None) -> list[dict[str, Any] | PluginError]:
    """What the detector says of each image; where one of them gives NaN or has another size, that is said of it.

    Raises PluginError on whatever else it cannot answer for.
    """
    if not images:
        return []
    try:
        found = detector.predict(stacked(images), tpr)
    except RowError as error:
        return [error] if len(images) == 1 else [_answers(detector, [image], tpr)[0] for image in images]
    values = zip(found.classes, found.scores.tolist(), found.p_values.tolist(), found.is_ood.tolist())
    return [
        {
            "class": name,
            "score": float(f"{score:.9g}"),  # all digits of a float32
            "p_value": float(f"{p_value:.9g}"),
            "verdict": OOD if is_ood else ID,
        }
        if math.isfinite(score)
        else RowError(f"its score is {score}; look at the image, and at the detector's numbers")
        for name, score, p_value, is_ood in values
    ]


def _row(name: str, answer: Mapping[str, Any] | PluginError) -> dict[str, Any]:
    if isinstance(answer, PluginError):
        error = one_line(str(answer))
        return {**dict.fromkeys(COLUMNS, None), "file": as_text(name), "verdict": "", "error": error}
    return {"file": as_text(name), **answer, "error": ""}
