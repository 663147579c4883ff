"""Why a row may not stand beside those of the board."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from nci_plugin.adapters import PYTORCH_OOD
from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, OOD_VALIDATION, TEST, Split
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.evaluation.benchmark_files import load_benchmark
from nci_plugin.evaluation.results import Result
from nci_plugin.evaluation.run import Run
from nci_plugin.leaderboard.board import Row, mean
from nci_plugin.leaderboard.rows import Entry

SEEDS = {"cifar10": 3, "cifar100": 3, "imagenet200": 3, "imagenet": 1}
"""Networks that a row is the mean of (Zhang et al. 2023)."""

ACCURACY_TOLERANCE = 0.5
"""Points of ID accuracy that networks of one architecture and training may differ by."""

_CIFAR_FAR = {"far/mnist": 70000, "far/svhn": 26032, "far/texture": 5640}
_IMAGENET_OOD = {
    "near/ssb_hard": 49000,
    "near/ninco": 5879,
    "far/inaturalist": 10000,
    "far/textures": 5160,
    "far/openimage_o": 15869,
}
SIZES = {
    "cifar10": {"id/test": 9000, "near/cifar100": 9000, "near/tin": 7793, **_CIFAR_FAR, "far/places365": 35195},
    "cifar100": {"id/test": 9000, "near/cifar10": 10000, "near/tin": 6526, **_CIFAR_FAR, "far/places365": 33773},
    "imagenet200": {
        "id/test": 9000,
        "csid/imagenet_v2": 2000,
        "csid/imagenet_c": 2000,
        "csid/imagenet_r": 30000,
        **_IMAGENET_OOD,
    },
    "imagenet": {
        "id/test": 45000,
        "csid/imagenet_v2": 10000,
        "csid/imagenet_c": 10000,
        "csid/imagenet_r": 30000,
        **_IMAGENET_OOD,
    },
}
"""Lines of OpenOOD v1.5's image lists: the splits that the boards' rows were made with."""

TEST_DATA = re.compile(rf"\b({TEST}|test|{'|'.join(GROUP_ROWS.values())}|{NEAR}/|{FAR}/)", re.IGNORECASE)


def notes(run: Run, entry: Entry, rows: Sequence[Row]) -> list[str]:
    """What keeps a row from being compared with the ``rows`` of its board, and what else is to be said of it."""
    objections = [
        *_seeds(run.benchmark, entry),
        *_accuracy(entry.row, rows),
        *_sizes(run, entry),
        *_covariate_shift(run.benchmark, entry),
        *_chosen_on_test_data([*entry.near, *entry.far]),
    ]
    warnings = [f"warning: not comparable: {text}" for text in objections]
    return [*warnings, *(f"note: {text}" for text in _remarks(run, entry))]


def _remarks(run: Run, entry: Entry) -> list[str]:
    """What is to be said of a row although it can be compared."""
    found = []
    if entry.detector.startswith(PYTORCH_OOD):
        found.append(f"'{entry.detector}' is pytorch-ood's implementation, which need not give the scores of OpenOOD's")
    if any(OOD_VALIDATION in result.chosen_by for result in entry.near):
        found += [
            f"hyper-parameters were searched on '{OOD_VALIDATION}', other images of the source of the test set"
            f" '{name}'; OpenOOD itself does that"
            for name in _sets_of_validation_source(run.benchmark)
        ]
    return found


def _sets_of_validation_source(benchmark: str) -> list[str]:
    """The test sets whose images come from where the OOD validation images do, by the names of their lists."""
    sources = {
        name: Path(each.imglist_path).stem.split("_", 1)[1]  # val_tin, test_tin
        for name, each in load_benchmark(benchmark).splits.items()
        if isinstance(each, ImageList)
    }
    return [name for name, source in sources.items() if source == sources[OOD_VALIDATION] and name != OOD_VALIDATION]


def _seeds(benchmark: str, entry: Entry) -> list[str]:
    count, wanted = len(entry.near), SEEDS[benchmark]
    if count >= wanted:
        return []
    return [f"{count} network{'s' * (count > 1)}, where the board's rows are the mean of {wanted}"]


def _accuracy(row: Row, rows: Sequence[Row]) -> list[str]:
    """The median of the board's rows of the same training and architecture, else of the same architecture."""
    same_arch = [each for each in rows if each.arch == row.arch]
    if not same_arch:
        return [f"the board has no row of {row.arch}, so the ID accuracy has nothing to stand beside"]
    same = [each for each in same_arch if each.same_network(row)]
    what = f"{row.training}, {row.arch}, {row.description}" if same else row.arch
    known = [value for each in same or same_arch if (value := mean(each.accuracy)) is not None]
    own = mean(row.accuracy)
    if not known or own is None:
        return [f"the board has no ID accuracy of {what}"]
    expected = statistics.median(known)
    if abs(own - expected) <= ACCURACY_TOLERANCE + 1e-9:
        return []
    return [
        f"ID accuracy {own:.2f}, where the board's of {what} is {expected:.2f}: more than {ACCURACY_TOLERANCE} points"
        " apart, so another network or other preprocessing"
    ]


def _sizes(run: Run, entry: Entry) -> list[str]:
    expected = SIZES[run.benchmark]
    sizes = {
        f"{result.group}/{result.dataset}": result.n_ood
        for result in run.results
        if (result.detector, result.setting) == (entry.detector, entry.setting)
        and result.dataset not in GROUP_ROWS.values()
    }
    if entry.setting == "ood":
        sizes[TEST] = entry.near[0].n_id
    wanted = {name: size for name, size in expected.items() if Split.parse(name).group != CSID}
    if entry.setting != "ood":
        del wanted[TEST]  # counted together with the covariate-shifted images
    differing = [
        f"{name} {_size(sizes.get(name))} ({_size(wanted.get(name))})"
        for name in dict.fromkeys([*wanted, *sizes])
        if sizes.get(name) != wanted.get(name)
    ]
    if not differing:
        return []
    return [f"images are not those of OpenOOD v1.5, whose numbers are in brackets: {', '.join(differing)}"]


def _size(count: int | None) -> str:
    return "none" if count is None else str(count)


def _covariate_shift(benchmark: str, entry: Entry) -> list[str]:
    if entry.setting == "ood":
        return []
    sets = {name: size for name, size in SIZES[benchmark].items() if Split.parse(name).group == CSID}
    expected = SIZES[benchmark][TEST] + sum(sets.values())
    if entry.near[0].n_id == expected:
        return []
    names = [Split.parse(name).name for name in sets]
    later = [name for name in load_benchmark(benchmark).data_sets(CSID) if name not in names]
    came_later = f" ({', '.join(later)} came after them)" if later else ""
    return [
        f"{entry.near[0].n_id} ID and covariate-shifted images, where the board's rows have {expected}: they were made"
        f" with {', '.join(names)}{came_later}; evaluate with --csid {' '.join(names)}"
    ]


def _chosen_on_test_data(results: Sequence[Result]) -> list[str]:
    choices = dict.fromkeys(result.chosen_by for result in results if TEST_DATA.search(result.chosen_by))
    return [f"a hyper-parameter was chosen on test data: {choice}" for choice in choices]
