"""The benchmark files and the preprocessing, against OpenOOD's own tables and transforms."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from openood.evaluation_api.datasets import DATA_INFO, get_id_ood_dataloader
from openood.evaluation_api.preprocessor import INTERPOLATION, default_preprocessing_dict, get_default_preprocessor
from PIL import Image
from sklearn.datasets import load_sample_image

from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.config import load_benchmark

pytestmark = pytest.mark.parametrize("name", DATA_INFO)


def groups(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What OpenOOD keeps in the groups of a benchmark, data set by data set."""
    return {"csid": tree["csid"], "near": tree["ood"]["near"], "far": tree["ood"]["far"]}


def openood_splits(tree: dict[str, Any], data_sets: dict[str, Any]) -> dict[str, Any]:
    """By our names of the splits, in order: id/train, ..., ood/val, csid/<data set>, near/..., far/..."""
    splits = {f"id/{split}": entry for split, entry in tree["id"].items()}
    splits["ood/val"] = tree["ood"]["val"]
    for group, entries in groups(tree).items():
        splits.update({f"{group}/{data_set}": entries[data_set] for data_set in data_sets[group]})
    return splits


def evaluated(name: str) -> dict[str, list[str]]:
    """The data sets of each group that OpenOOD evaluates; it describes more."""
    return {group: entries["datasets"] for group, entries in groups(DATA_INFO[name]).items()}


def image_lists(name: str) -> dict[str, Any]:
    return openood_splits(DATA_INFO[name], evaluated(name))


def test_splits(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert benchmark.num_classes == DATA_INFO[name]["num_classes"]
    assert {group: benchmark.data_sets(group) for group in ("csid", "near", "far")} == evaluated(name)
    ours = {
        split: {"data_dir": source.data_dir, "imglist_path": source.imglist_path}
        for split, source in benchmark.splits.items()
    }
    assert list(ours.items()) == list(image_lists(name).items())


def test_preprocessing_numbers(name: str) -> None:
    benchmark = load_benchmark(name)
    numbers = asdict(benchmark.preprocessing)
    assert numbers.pop("interpolation") == INTERPOLATION.value
    numbers["normalization"] = [list(row) for row in numbers["normalization"]]
    assert numbers == default_preprocessing_dict[name]
    imagenet_c = replace(benchmark.preprocessing, pre_size=None, img_size=None)  # its images have their final size
    for split, source in benchmark.splits.items():
        assert source.preprocessing == (imagenet_c if split == "csid/imagenet_c" else benchmark.preprocessing), split


def write_images(folder: Path) -> list[str]:
    """Photographs in every kind of file that the data sets hold; returns their names."""
    folder.mkdir(parents=True)
    photo = Image.fromarray(load_sample_image("china.jpg"))
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    translucent = flower.resize((300, 301))
    translucent.putalpha(translucent.convert("L"))
    images = {
        "rgb.png": photo,
        "rgb.jpg": flower,
        "tall.jpg": photo.crop((100, 0, 180, 427)),
        "small.png": flower.resize((32, 32)),
        "tiny.png": flower.resize((17, 9)),
        "final_size.jpg": photo.resize((224, 224)),
        "gray.png": photo.resize((257, 255)).convert("L"),
        "gray.jpg": flower.resize((48, 33)).convert("L"),
        "gray_alpha.png": translucent.convert("LA"),
        "rgba.png": translucent,
        "palette.png": photo.resize((333, 500)).convert("P", palette=Image.Palette.ADAPTIVE),
        "palette_alpha.png": translucent.quantize(64),
        "bilevel.png": photo.resize((64, 48)).convert("1"),
        "cmyk.jpg": photo.resize((200, 150)).convert("CMYK"),
    }
    for file, image in images.items():
        image.save(folder / file)
    with Image.open(folder / "palette_alpha.png") as image:
        assert (image.mode, "transparency" in image.info) == ("P", True)
    return list(images)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenOOD's layout: every image list of every benchmark names the same few images."""
    root = tmp_path_factory.mktemp("data")
    names = {folder: write_images(root / folder) for folder in ("images_classic/", "images_largescale/")}
    for name in DATA_INFO:
        for split, entry in image_lists(name).items():
            path = root / entry["imglist_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            labelled = enumerate(names[entry["data_dir"]])
            lines = [f"{file} {number % 6 if Benchmark.is_id(split) else -1}\n" for number, file in labelled]
            path.write_text("".join(lines), encoding="utf-8")
    return root


def test_images_are_bit_identical(name: str, data_root: Path) -> None:
    """Every split as OpenOOD's evaluator loads it; it picks the ImageNet-C preprocessing itself."""
    loaders = get_id_ood_dataloader(name, str(data_root), get_default_preprocessor(name))
    theirs = openood_splits(loaders, evaluated(name))
    ours = open_splits(load_benchmark(name).with_data_root(data_root))
    assert list(ours) == list(theirs)
    for split, files in ours.items():
        dataset = theirs[split].dataset
        assert len(files) == len(dataset) > 0
        for index, file in enumerate(files.names):
            image, label = files.item(index)
            sample = dataset[index]
            assert image.dtype == sample["data"].dtype
            assert torch.equal(image, sample["data"]), (split, file)
            assert int(label) == sample["label"], (split, file)
