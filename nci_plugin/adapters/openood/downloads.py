"""The command of OpenOOD's own download script that fetches what a benchmark lacks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from pathlib import Path

from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TEST, TRAIN, Benchmark, Split
from nci_plugin.benchmarks.image_list import ImageList

SCRIPT = "./scripts/download/download.py"
CHECKPOINTS = {
    "cifar10": "cifar10_res18_v1.5",
    "cifar100": "cifar100_res18_v1.5",
    "imagenet200": "imagenet200_res18_v1.5",
    "imagenet": "imagenet_res50_v1.5",
}
"""Names of the script's checkpoint archives, by benchmark."""

ID_DATA_SETS = {"imagenet200": "imagenet_1k", "imagenet": "imagenet_1k"}
"""The script's names of ID data sets that are not the benchmark's."""

RENAMED = {"textures": "texture"}
ONLY_EVALUATOR = ("imagenet_es",)
"""Data sets that only OpenOOD's evaluation API downloads."""

LISTS = "benchmark_imglist"


def download_hint(
    benchmark: Benchmark, missing: Collection[str], checkpoints: bool, results_root: Path, checkout: Path | None
) -> str:
    """What to run in OpenOOD's checkout for the ``missing`` splits of one of its benchmarks, and for its checkpoints.

    Empty for any other benchmark.
    """
    if benchmark.name not in CHECKPOINTS:
        return ""
    lists = {split: source for split, source in benchmark.splits.items() if isinstance(source, ImageList)}
    data_root = lists[TEST].data_root
    places = {split: _place(benchmark.name, split, source) for split, source in lists.items()}
    # The archive of ImageNet-1k holds its validation images alone.
    by_hand = [split for split in missing if split == TRAIN and benchmark.name in ID_DATA_SETS]
    no_list = any(not lists[split].path.exists() for split in missing)
    wanted = dict.fromkeys(places[split] for split in missing if split not in by_hand or no_list)
    scripted = [place.name for place in wanted if place.name not in ONLY_EVALUATOR]
    save_dir = [_relative(data_root, checkout), _relative(results_root, checkout)]
    commands = []
    if scripted or checkpoints:
        command = ["python", SCRIPT, "--contents", *["datasets"] * bool(scripted), *["checkpoints"] * checkpoints]
        command += ["--datasets", *scripted, "--dataset_mode", "dataset"] if scripted else []
        command += ["--checkpoints", CHECKPOINTS[benchmark.name]] if checkpoints else []
        commands.append([*command, "--save_dir", *save_dir])
    if any(place.name in ONLY_EVALUATOR for place in wanted):
        arguments = f"{json.dumps(save_dir[0])}, {json.dumps(benchmark.name)}"
        code = f"from openood.evaluation_api.datasets import data_setup; data_setup({arguments})"
        commands.append(["python", "-c", code])
    hints = []
    if commands:
        hints.append(f"in {checkout or 'a checkout of OpenOOD'} run: {' && '.join(map(shlex.join, commands))}")
        there = [
            place for place in [*wanted, *[data_root / LISTS] * no_list] if place.is_dir() and any(place.iterdir())
        ]
        if there:
            hints.append(f"it skips what is there already, so first move away {', '.join(map(str, there))}")
    if by_hand:
        hints.append(f"ImageNet-1k's training images come from image-net.org, to lie in {places[TRAIN] / 'train'}")
    return "; ".join(hints)


def _relative(path: Path, checkout: Path | None) -> str:
    return f"./{path.name}" if checkout is not None and path == checkout / path.name else str(path.absolute())


def _place(benchmark: str, split: str, source: ImageList) -> Path:
    """The directory of the data set that a split's images are in; its name is the script's."""
    group, name = Split.parse(split)
    if group == "id":
        name = ID_DATA_SETS.get(benchmark, benchmark)
    elif split == OOD_VALIDATION:
        name = Path(source.imglist_path).stem.split("_", 1)[1]  # val_tin
    return source.data_root / source.data_dir / RENAMED.get(name, name)
