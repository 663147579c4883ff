"""What an evaluation needs, found in OpenOOD's layout: data and results roots, image lists, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nci_plugin.adapters.openood.downloads import CHECKPOINTS, download_hint
from nci_plugin.adapters.openood.roots import Roots
from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, Benchmark, Split
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.folder import IMG_EXTENSIONS
from nci_plugin.benchmarks.opening import missing_splits, survey
from nci_plugin.checks import PluginError
from nci_plugin.networks.checkpoints import find_checkpoints

NO_CSID = "none"


@dataclass(frozen=True)
class Inputs:
    """One benchmark, ready to be evaluated.

    ``benchmark`` has only the covariate-shifted sets that count; where there are none, ``no_full_spectrum`` says why.
    ``checkpoints`` maps seeds to the files in ``checkpoint_path``.
    """

    benchmark: Benchmark
    roots: Roots
    splits: Mapping[str, Any]
    checkpoint_path: Path
    checkpoints: Mapping[str, Path]
    no_full_spectrum: str


class MissingInputs(PluginError):
    """Lists, images or checkpoints are not there; ``summary`` says so in a few words."""

    def __init__(self, message: str, details: Sequence[str], summary: str) -> None:
        super().__init__(message, details)
        self.summary = summary


def official_benchmarks() -> list[str]:
    """OpenOOD's own benchmarks: those that its download script knows."""
    return sorted(CHECKPOINTS)


def find_inputs(
    benchmark: Benchmark,
    roots: Roots,
    given: Path | Callable[[], Path] | None = None,
    csid: Sequence[str] | None = None,
    full_spectrum_only: bool = False,
    progress: bool = False,
) -> Inputs:
    """Look at every list, image and checkpoint of a benchmark, before anything long starts.

    ``given`` are the user's checkpoints, or a function that fetches them when all else is there; None = those that the
    benchmark names. ``csid`` are the covariate-shifted sets that count, None = all; where one of those is missing then,
    the others do not count either, since a full spectrum of fewer sets would be another number. With ``progress`` it is
    shown how far that is where it takes long.

    Raises PluginError about all that is missing, with OpenOOD's command that downloads it.
    """
    if given is None and benchmark.checkpoints is None:
        raise PluginError(f"benchmark '{benchmark.name}': names no checkpoints; pass --ckpt-path")
    path = given if isinstance(given, Path) else roots.results / str(benchmark.checkpoints)
    benchmark = benchmark.with_data_root(roots.data)
    reason = "the benchmark has no covariate-shifted set (csid)"
    if csid is not None:
        benchmark = benchmark.with_csid([] if list(csid) == [NO_CSID] else csid)
        reason = f"--csid {' '.join(csid)}"
    if full_spectrum_only and not benchmark.data_sets(CSID):
        raise PluginError(f"--fsood: benchmark '{benchmark.name}' has no full spectrum: {reason}; leave --fsood out")
    checkpoints, no_checkpoints = ({}, None) if callable(given) else _checkpoints(path, named=given is None)
    splits, missing = survey(benchmark, progress)
    needless = csid is None and not full_spectrum_only
    lacking = {name: error for name, error in missing.items() if Split.parse(name).group == CSID}
    if needless and lacking and not no_checkpoints and len(lacking) == len(missing):
        there = [name for name in benchmark.data_sets(CSID) if f"{CSID}/{name}" not in missing]
        sets = ", ".join(f"{name} lacks {error.summary}" for name, error in lacking.items())
        benchmark = benchmark.with_csid([])
        splits = {name: split for name, split in splits.items() if name in benchmark.splits}
        reason = f"{sets}; --csid selects other sets: {' '.join(there) or NO_CSID}"
        missing = {}
    if missing or no_checkpoints:
        raise _missing_inputs(benchmark, missing, no_checkpoints, roots)
    if callable(given):
        path = given()
        checkpoints = find_checkpoints(path)
    return Inputs(benchmark, roots, splits, path, checkpoints, reason)


def folder_benchmark(root: Path, preprocessing: Preprocessing) -> Benchmark:
    """The benchmark of a folder with ``train/``, ``val/`` and ``test/`` of one sub-folder a class, and ``near/`` and
    ``far/`` of one sub-folder an OOD set.

    What is not there is left out, and where there is no ``test/`` it is ``val/``, which then calibrates no detector
    that is evaluated (see `evaluate_bank`). Raises PluginError where there is neither, and on images that lie in
    ``near/`` or ``far/`` beside the sub-folders, which are of no set.
    """
    there = {name: root / name for name in ("train", "val", "test", NEAR, FAR) if (root / name).is_dir()}
    test = there.get("test", there.get("val"))
    if test is None or "train" not in there:
        raise PluginError(
            f"folder '{root}': needs train/ and val/ or test/, with one sub-folder for each class, got"
            f" {', '.join(there) or 'none of them'}; lay the images out so, or write a YAML"
        )
    for group in (each for each in (NEAR, FAR) if each in there):
        loose = [each for each in there[group].iterdir() if each.suffix.lower() in IMG_EXTENSIONS and each.is_file()]
        if loose:
            raise PluginError(
                f"folder '{there[group]}': holds images of no OOD set, '{min(loose).name}' for one of {len(loose)}; put"
                " them into sub-folders, one for each set"
            )
    preprocessing.warn_of_edges("preprocessing")
    classes = [entry for entry in there["train"].iterdir() if entry.is_dir()]
    ood = {
        group: {each.name: each for each in sorted(there[group].iterdir()) if each.is_dir()}
        for group in (NEAR, FAR)
        if group in there
    }
    return Benchmark.from_splits(
        root.resolve().name,
        max(1, len(classes)),
        train=there["train"],
        val=there.get("val"),
        test=test,
        preprocessing=preprocessing,
        **ood,
    )


def check_data(benchmark: Benchmark, roots: Roots) -> Mapping[str, Any]:
    """Look at every list and image; raises PluginError about all that is missing."""
    benchmark = benchmark.with_data_root(roots.data)
    splits, missing = survey(benchmark, progress=True)
    if missing:
        raise _missing_inputs(benchmark, missing, None, roots)
    return splits


def _checkpoints(path: Path, named: bool) -> tuple[Mapping[str, Path], PluginError | None]:
    """Checkpoints by seed; of those that the benchmark itself ``named``, the error that they are not there."""
    try:
        return find_checkpoints(path), None
    except PluginError as error:
        if not named:
            raise
        return {}, error


def _missing_inputs(
    benchmark: Benchmark, missing: Mapping[str, Any], no_checkpoints: PluginError | None, roots: Roots
) -> MissingInputs:
    """One error about splits and checkpoints, with what to do about it."""
    no_splits = missing_splits(benchmark, missing) if missing else None
    details: list[str] = []
    summary: list[str] = []
    if no_splits is not None:
        details += no_splits.details
        summary.append(f"{len(missing)} of {len(benchmark.splits)} splits lack their list or images")
    if no_checkpoints is not None:
        path = roots.results / str(benchmark.checkpoints)
        details.append(f"missing: checkpoints  {path if path.suffix == '.pth' else path / 's*' / 'best.ckpt'}")
        summary.append(f"there are no checkpoints in {path}")
    text = " and ".join(summary)
    message = str(no_splits or no_checkpoints)
    if hint := download_hint(benchmark, list(missing), no_checkpoints is not None, roots.results, roots.openood):
        message = f"benchmark '{benchmark.name}': {text}; {hint}; or pass --data-root, --ckpt-path"
    return MissingInputs(message, details, text)
