"""The benchmark ``digits`` and its corruptions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nci_plugin import evaluate
from nci_plugin.benchmarks import digits
from nci_plugin.benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from nci_plugin.checks import PluginError

COUNTS = {"train": 650, "val": 108, "test": 325, "csid": 12 * 325, "ood_val": 180 + 260, "near": 534, "far": 260}
DISJOINT = [split for split in COUNTS if split != "csid"]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    digits.write_digits(root)
    return root


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of only five images a split, 35 in all."""
    splits = {split: items[:5] for split, items in digits._splits().items()}
    monkeypatch.setattr(digits, "_splits", lambda: splits)


def read_list(root: Path, split: str) -> list[tuple[str, int]]:
    lines = (root / "benchmark_imglist/digits" / digits.LISTS[split]).read_text().splitlines()
    return [(line.split(" ")[0], int(line.split(" ")[1])) for line in lines]


def pixels(root: Path, name: str) -> np.ndarray:
    with Image.open(root / "images_classic" / name) as image:
        return np.asarray(image)


def digest(root: Path) -> dict[str, bytes]:
    """Pixels of every image and text of every list."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): pixels(root, str(path.relative_to(root / "images_classic"))).tobytes()
        if path.suffix == ".png"
        else path.read_bytes()
        for path in files
    }


@pytest.mark.parametrize("split", COUNTS)
def test_lists_name_images_that_decode(data_root: Path, split: str) -> None:
    items = read_list(data_root, split)
    assert len(items) == COUNTS[split]
    assert len({name for name, _ in items}) == len(items)
    for name, _ in items:
        image = pixels(data_root, name)
        assert image.shape == (32, 32)
        assert image.dtype == np.uint8


def test_every_file_is_in_a_list(data_root: Path) -> None:
    listed = {name for split in COUNTS for name, _ in read_list(data_root, split)}
    images = data_root / "images_classic"
    assert {str(path.relative_to(images)) for path in images.rglob("*") if path.is_file()} == listed


def test_the_long_tailed_list_is_a_part_of_the_training_list(data_root: Path) -> None:
    lines = (data_root / "benchmark_imglist/digits/train_digits_lt.txt").read_text().splitlines()
    assert set(lines) <= {f"{name} {label}" for name, label in read_list(data_root, "train")}
    counts = np.bincount([int(line.split(" ")[1]) for line in lines])
    assert (len(set(lines)), counts.tolist()) == (len(lines), [107, 59, 32, 18, 10, 5])


def test_file_names_of_lists(data_root: Path) -> None:
    assert sorted(os.listdir(data_root / "benchmark_imglist/digits")) == [
        "test_digits.txt",
        "test_digits_c.txt",
        "test_digits_unseen.txt",
        "test_flower.txt",
        "train_digits.txt",
        "train_digits_lt.txt",
        "val_digit9_china.txt",
        "val_digits.txt",
    ]


def test_labels(data_root: Path) -> None:
    for split in COUNTS:
        labels = {label for _, label in read_list(data_root, split)}
        assert labels == (set(range(6)) if split in ("train", "val", "test", "csid") else {-1})


def test_id_splits_are_stratified(data_root: Path) -> None:
    for split, share in (("train", 0.6), ("val", 0.1), ("test", 0.3)):
        counts = np.bincount([label for _, label in read_list(data_root, split)])
        assert np.all(np.abs(counts - share * np.array([178, 182, 177, 183, 181, 182])) <= 1)


def test_ood_validation_is_in_no_test_set(data_root: Path) -> None:
    """The split holds the class 9 and china.jpg, near-OOD the classes 6, 7, 8, far-OOD flower.jpg; by their folders."""
    sources = {split: {"/".join(name.split("/")[1:-1]) for name, _ in read_list(data_root, split)} for split in COUNTS}
    assert sources["ood_val"] == {"ood_val/9", "china"}
    assert sources["near"] == {"unseen/6", "unseen/7", "unseen/8"}
    assert sources["far"] == {"flower"}


@pytest.mark.parametrize("by", ["name", "pixels"])
def test_splits_are_disjoint(data_root: Path, by: str) -> None:
    owner: dict[object, str] = {}
    for split in DISJOINT:
        for name, _ in read_list(data_root, split):
            key = name if by == "name" else pixels(data_root, name).tobytes()
            assert owner.setdefault(key, split) == split, f"{name} is in {owner[key]} too"


def test_corrupted_images_stem_from_the_test_split(data_root: Path) -> None:
    originals = {name.rsplit("/", 1)[1]: (name, label) for name, label in read_list(data_root, "test")}
    seen = set()
    for name, label in read_list(data_root, "csid"):
        _, _, corruption, severity, file = name.split("/")
        original, original_label = originals[file]
        assert label == original_label
        if corruption != "gaussian_noise":
            expected = corrupt(pixels(data_root, original), corruption, int(severity))
            assert np.array_equal(pixels(data_root, name), expected)
        seen.add((corruption, int(severity), file))
    assert seen == {
        (corruption, severity, file) for corruption in CORRUPTIONS for severity in (1, 3, 5) for file in originals
    }


def test_digits_use_the_full_range(data_root: Path) -> None:
    images = np.stack([pixels(data_root, name) for name, _ in read_list(data_root, "train")])
    assert (images.min(), images.max()) == (0, 255)


def test_two_builds_are_identical_and_use_no_global_random_state(data_root: Path, tmp_path: Path) -> None:
    np.random.seed(3)  # noqa: NPY002 - the global generator is the subject
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    digits.write_digits(tmp_path)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert digest(tmp_path) == digest(data_root)


def test_a_complete_build_is_left_alone(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_splits", lambda: pytest.fail("was built again"))
    assert digits.is_complete(data_root)
    digits.write_digits(data_root)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("renames", [0, 10, 35, 36, 41])
def test_an_interrupted_build_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    """Interrupted after so many of its 35 images and 7 lists."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    digits.write_digits(whole)
    done = 0
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        nonlocal done
        if done == renames:
            raise KeyboardInterrupt
        done += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            digits.write_digits(broken)
    assert not digits.is_complete(broken)
    digits.write_digits(broken)
    assert digits.is_complete(broken)
    assert digest(broken) == digest(whole)


@pytest.mark.usefixtures("few")
def test_a_lost_image_is_written_again(tmp_path: Path) -> None:
    digits.write_digits(tmp_path)
    lost = tmp_path / "images_classic" / read_list(tmp_path, "far")[3][0]
    lost.unlink()
    assert not digits.is_complete(tmp_path)
    digits.write_digits(tmp_path)
    assert lost.is_file()


@pytest.mark.usefixtures("few")
def test_data_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "images_classic").write_text("a file where the folder belongs")
    with pytest.raises(PluginError, match=r"cannot write '.*images_classic/.*': .*choose another directory"):
        digits.write_digits(tmp_path)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32), (32, 20, 3), (7, 9, 1), (1, 1, 3)])
def test_corruption_keeps_shape_and_dtype(corruption: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    for severity in SEVERITIES:
        corrupted = corrupt(image, corruption, severity, np.random.default_rng(1))
        assert corrupted.shape == image.shape
        assert corrupted.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corruption_grows_with_severity(data_root: Path, corruption: str) -> None:
    images = [pixels(data_root, name).astype(float) for name, _ in read_list(data_root, "test")[::5]]
    generator = np.random.default_rng(0)
    distances = [
        np.mean([np.abs(corrupt(x.astype(np.uint8), corruption, severity, generator) - x).mean() for x in images])
        for severity in SEVERITIES
    ]
    assert distances[0] > 0
    assert np.all(np.diff(distances) > 0)


def test_noise_follows_its_generator() -> None:
    image = np.full((8, 8), 128, dtype=np.uint8)
    first, again, other = (corrupt(image, "gaussian_noise", 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noise_has_the_stated_strength() -> None:
    noisy = corrupt(np.full((400, 400), 128, dtype=np.uint8), "gaussian_noise", 1, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.02)


def test_contrast_by_hand() -> None:
    image = np.array([[0, 100], [200, 100]], dtype=np.uint8)  # mean 100, severity 1 keeps 0.4 of the distance to it
    assert corrupt(image, "contrast", 1).tolist() == [[60, 100], [140, 100]]


def test_pixelate_by_hand() -> None:
    image = np.zeros((8, 8), dtype=np.uint8)
    image[:4, :4] = 160
    image[0, 0] = 0
    corrupted = corrupt(image, "pixelate", 5)  # 2x2 blocks of 4x4 pixels
    assert np.all(corrupted[:4, :4] == 150)
    assert corrupted.sum() == 16 * 150


def test_blur_does_not_mix_channels() -> None:
    image = np.zeros((9, 9, 3), dtype=np.uint8)
    image[4, 4, 0] = 255
    blurred = corrupt(image, "gaussian_blur", 1)
    assert 0 < blurred[4, 4, 0] < 255
    assert not blurred[..., 1:].any()


@pytest.mark.parametrize(
    ("image", "corruption", "severity", "message"),
    [
        (np.zeros((4, 4), np.uint8), "pixelat", 1, r"unknown corruption 'pixelat' \(did you mean 'pixelate'\?\)"),
        (np.zeros((4, 4), np.uint8), "contrast", 6, "severity: must be one of 1, 2, 3, 4, 5, got 6"),
        (np.zeros((4, 4)), "contrast", 1, r"must be a uint8 array .* got float64 \(4, 4\)"),
        (np.zeros((0, 4), np.uint8), "contrast", 1, r"not empty, got uint8 \(0, 4\)"),
        (np.zeros((4, 4), np.uint8), "gaussian_noise", 1, "needs a numpy.random.Generator, got NoneType"),
    ],
)
def test_what_cannot_be_corrupted(image: np.ndarray, corruption: str, severity: int, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        corrupt(image, corruption, severity)


def test_python_builds_it_as_the_command_does(tmp_path: Path, few: None) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 6))
    evaluation = evaluate(network, "digits", "msp", data_root=tmp_path, progress=False)
    assert {result.dataset for result in evaluation.results} >= {"digits_unseen", "flower"}
    assert digits.is_complete(tmp_path)
