"""`OODDetector`: what it fits on, what it refuses, and what comes back from its file."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import served
import torch
from PIL import Image
from served import CLASSES, NAMES, STEPS, fitted, folders, network, rows
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from nci_plugin import Benchmark, OODDetector, PluginError, Preprocessing, evaluate, recommend
from nci_plugin.checks import check_output_file
from nci_plugin.deploy import file
from nci_plugin.deploy.export import export
from nci_plugin.deploy.fitting import drawn, fit_together, halves
from nci_plugin.deploy.preprocessing import agreed, of_timm, of_transform, stated
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector, FitsOn, Paper
from nci_plugin.detectors.knn import KNN
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.cut import PROBE_ROWS
from tests.helpers.precision import skip_unless_computed

TRAIN, VAL, TEST, OOD = rows(120, 1), rows(60, 2), rows(40, 3), rows(30, 4, ood=True)


def new(detector: Any = "nci_plus", **settings: Any) -> OODDetector:
    return OODDetector(detector, progress=False, **settings)


def scores_of_evaluate(name: str, model: nn.Module) -> dict[str, np.ndarray]:
    benchmark = Benchmark.from_splits("served", CLASSES, train=TRAIN, test=TEST, val=VAL, near={"ood": OOD})
    return evaluate(model, benchmark, [name], progress=False).scores[name]


# -------------------------------------------------------------------- fit and score


@pytest.mark.parametrize("name", ["nci_plus", "nci", "msp", "mds_pp", "neco"])
def test_scores_are_those_of_evaluate_to_the_last_digit(name: str) -> None:
    model = network()
    detector = new(name).fit(model, TRAIN, VAL)
    expected = scores_of_evaluate(name, model)
    assert np.array_equal(detector.score(TEST).numpy(), expected["id/test"])
    assert np.array_equal(detector.score(OOD).numpy(), expected["near/ood"])


def test_predictions_hold_together() -> None:
    detector, model = fitted()
    found = detector.predict(TEST)
    assert len(found) == 40
    with torch.no_grad():
        assert torch.equal(found.labels, model.eval()(TEST.tensors[0]).argmax(1))
    assert torch.equal(found.is_ood, found.scores < float(detector.threshold()))
    assert torch.equal(found.is_ood, found.p_values <= 0.05)
    assert found.classes[0] == str(int(found.labels[0]))
    assert "40 images" in repr(found)
    assert detector.threshold(0.9).n == 60
    assert detector.predict(TEST, tpr=0.5).is_ood.sum() > found.is_ood.sum()


@pytest.mark.parametrize("tpr", [1e-13, 0.9999999999999, 0.999, 95, "0.9"])
def test_a_tpr_that_cannot_be_is_refused_before_images_are_opened(tpr: Any) -> None:
    detector, _ = fitted()
    for ask in (lambda: detector.predict("nowhere", tpr=tpr), lambda: detector.module(tpr=tpr)):
        with pytest.raises(PluginError, match="(?i)tpr"):
            ask()


def test_the_smallest_tpr_is_fitted_and_said() -> None:
    detector, _ = fitted(tpr=1e-9)
    largest = float(detector.fitted.calibration.scores[-1])
    assert float(detector.threshold()) == largest
    assert torch.equal(detector.predict(TEST).is_ood, detector.score(TEST) < largest)
    assert detector.drift(detector.score(TEST)).n == 40


def test_the_same_images_in_every_form(tmp_path: Path) -> None:
    """Folder, paths, PIL images, data sets, loaders in any order, dicts and tensors: one score an image."""
    folders(tmp_path, {"train": 60, "val": 40, "mixed": 12})
    model = network()
    detector = new(preprocessing=STEPS).fit(model, tmp_path / "train", str(tmp_path / "val"))
    assert detector.predict(tmp_path / "mixed").class_names == NAMES
    paths = sorted((tmp_path / "mixed").iterdir())
    pictures = [Image.open(path) for path in paths]
    tensors = torch.stack([STEPS(picture) for picture in pictures])
    expected = detector.score(tensors)
    for source in (
        tmp_path / "mixed",
        paths,
        pictures,
        TensorDataset(tensors),
        DataLoader(TensorDataset(tensors), 5, shuffle=True),
        [{"pixel_values": each} for each in tensors],
    ):
        assert torch.equal(detector.score(source), expected), type(source)
    assert torch.allclose(detector.score(paths[3]), expected[3:4], atol=1e-5)  # another batch, other rounding
    steps = transforms.Compose(
        [
            transforms.Resize(8),
            transforms.CenterCrop(8),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    by_loader = new().fit(
        model,
        DataLoader(ImageFolder(str(tmp_path / "train"), steps), 7, shuffle=True),
        ImageFolder(str(tmp_path / "val"), steps),
    )
    assert by_loader.fitted.preprocessing == STEPS
    assert by_loader.fitted.class_names == NAMES
    assert torch.equal(by_loader.score(paths), expected)


def test_a_folder_is_scored_by_sorted_path_and_says_which_files(tmp_path: Path) -> None:
    """Files beside folders of any depth, whose order torchvision's ImageFolder has otherwise."""
    folders(tmp_path, {"mixed": 8})
    names = ["a/z.png", "a/b/x.png", "a-b/c.png", "b.png", "a.png", "a/b/c/0.png", "z/1.PNG", "B.png"]
    for old, name in zip(sorted((tmp_path / "mixed").iterdir()), names):
        (tmp_path / "deep" / name).parent.mkdir(parents=True, exist_ok=True)
        old.rename(tmp_path / "deep" / name)
    (tmp_path / "deep" / "no image.txt").touch()
    detector, _ = fitted()
    found = detector.predict(str(tmp_path / "deep"))
    paths = [tmp_path / "deep" / name for name in sorted(names)]
    assert found.files == tuple(map(str, paths))
    assert torch.equal(found.scores, detector.score(paths))
    assert torch.equal(found.scores, detector.score(tmp_path / "deep"))
    for source in (paths[::-1], [(path, 0) for path in paths[::-1]]):
        assert detector.predict(source).files == tuple(map(str, paths[::-1]))
    assert detector.predict(paths[0]).files == (str(paths[0]),)
    for source in (TEST, TEST.tensors[0], [Image.open(path) for path in paths], [paths[0], Image.open(paths[1])]):
        assert detector.predict(source).files == ()


@pytest.mark.parametrize("wrap", ["train mode", "half train", "data parallel", "sequential", "compiled"])
def test_a_model_in_any_state_is_fitted_alike_and_left_as_it_was(wrap: str, compiler: None) -> None:
    plain = new().fit(network(), TRAIN, VAL)
    model: Any = network()
    if wrap == "train mode":
        model.train()
    elif wrap == "half train":
        model[1].train()
    elif wrap == "data parallel":
        model = nn.DataParallel(model)
    elif wrap == "sequential":
        model = nn.Sequential(model)
    else:
        model = torch.compile(model, backend="eager")
    modes = [module.training for module in model.modules()]
    detector = new().fit(model, TRAIN, VAL)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(detector.score(TEST), plain.score(TEST))
    assert detector.fitted.network.digests == plain.fitted.network.digests
    assert detector.fitted.head == plain.fitted.head


def test_loaders_of_dicts_fit_as_those_of_pairs() -> None:
    def dicts(split: TensorDataset) -> DataLoader:
        return DataLoader([{"image": image, "label": int(label)} for image, label in split], 16)  # type: ignore[arg-type]

    expected = new().fit(network(), TRAIN, VAL)
    found = new().fit(network(), dicts(TRAIN), dicts(VAL))
    assert torch.equal(found.score(TEST), expected.score(TEST))
    assert np.array_equal(found.fitted.calibration.scores, expected.fitted.calibration.scores)


def test_only_what_looks_at_validation_images_cuts_them() -> None:
    for detector, cut in (("nci_plus", 0), ("nci_auto", 29), (registry.create("nci_auto", alpha=0.1), 0)):
        found = new(detector).fit(network(), TRAIN, rows(58, 2)).fitted
        assert found.rows == {"train": 120, "validation_fit": cut, "calibration": 58 - cut}
    held = new("nci_plus", holdout=True).fit(network(), TRAIN, VAL).fitted
    assert held.rows["calibration"] == len(held.calibration) == 30


def test_the_tuning_half_tunes_and_the_other_calibrates() -> None:
    """Of 60 images that calibrate nothing, none may change the calibration; of those that do, none may tune."""
    model = network()
    first = new("nci_auto", seed=3).fit(model, TRAIN, VAL)
    split = FeatureSplit.of(VAL.tensors[0].flatten(1), VAL.tensors[0].flatten(1)[:, :4], VAL.tensors[1])
    fitting, calibrating = halves(split, 3)
    used = {tuple(row.tolist()) for row in fitting.features}
    images = VAL.tensors[0].clone()
    in_fit = torch.tensor([tuple(image.flatten().tolist()) in used for image in images])
    assert in_fit.sum() == len(fitting) == 30
    assert len(used & {tuple(row.tolist()) for row in calibrating.features}) == 0
    images[~in_fit] = images[~in_fit].flip(-1) * 0.9
    other = new("nci_auto", seed=3).fit(model, TRAIN, TensorDataset(images, VAL.tensors[1]))
    assert other.fitted.detector.alpha_ == first.fitted.detector.alpha_  # type: ignore[attr-defined]
    assert not np.array_equal(other.fitted.calibration.scores, first.fitted.calibration.scores)
    assert set(np.bincount(fitting.labels.numpy()).tolist()) == {7, 8}  # fifteen of each class
    one_each = FeatureSplit.of(torch.zeros(101, 2), torch.zeros(101, 101), torch.arange(101))
    assert [len(half) for half in halves(one_each, 0)] == [50, 51]


def test_bank_rows_keep_the_shares_of_the_classes() -> None:
    labels = torch.cat([torch.zeros(900), torch.ones(90), torch.full((10,), 2)]).long()
    split = FeatureSplit.of(torch.arange(1000.0)[:, None], torch.zeros(1000, 3), labels)
    kept = drawn(split, 100, seed=0)
    assert torch.bincount(kept.labels).tolist() == [90, 9, 1]
    assert torch.equal(drawn(split, 100, seed=0).features, kept.features)
    assert not torch.equal(drawn(split, 100, seed=1).features, kept.features)
    assert len(drawn(split, 333, seed=0)) == 333
    assert drawn(split, 1000, 0) is split
    detector, _ = fitted(registry.create("knn", K=3), bank_rows=20)
    assert detector.fitted.rows["train"] == 20


def test_class_thresholds_are_named() -> None:
    detector, _ = fitted(by_class=True, tpr=0.9, class_names=NAMES)
    assert set(detector.thresholds()) <= {*NAMES, "all others"}
    with pytest.raises(PluginError, match="thresholds\\(\\)"):
        detector.threshold()
    assert detector.predict(TEST).classes[0] in NAMES


# -------------------------------------------------------------------- what is refused


class Augmented(Dataset):
    """Flips half of the images, as a training set does."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return 120

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = TRAIN[index]
        return (image.flip(-1) if self.generator.random() < 0.5 else image), int(label)


class WithoutLength(Sampler):
    """A sampler, as torch allows it: it says what it gives, and not how much."""

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(range(60))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield TRAIN[0]


def centred_by_batch(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = default_collate(batch)
    return images - images.mean(dim=0), labels


def mixed(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = default_collate(batch)
    return (images + images.flip(0)) / 2, labels


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Augmented(), "fetched again"),
        (DataLoader(Augmented(), 8), "test preprocessing"),
        (DataLoader(TRAIN, 50, drop_last=True), "drop_last"),
        (DataLoader(TRAIN, 8, sampler=SubsetRandomSampler(range(100))), "gives 100 of the 120 images"),
        (DataLoader(TRAIN, 8, sampler=torch.utils.data.RandomSampler(TRAIN, True, 500)), "gives 500 of the 120"),
        (DataLoader(TRAIN, 8, sampler=WithoutLength()), "with WithoutLength and BatchSampler may repeat or leave out"),
        (DataLoader(TRAIN, 8, collate_fn=centred_by_batch), "makes another image of a sample that others are with"),
        (DataLoader(TRAIN, 8, collate_fn=mixed), "makes another image of a sample that others are with"),
        (Endless(), "may never end"),
        (DataLoader(Endless(), 8), "may never end"),
        ((pair for pair in TRAIN), "may never end"),
        (Subset(TRAIN, []), "empty"),
        (TensorDataset((TRAIN.tensors[0] * 20).byte(), TRAIN.tensors[1]), "holds uint8, not floats"),
        (TensorDataset(TRAIN.tensors[0], TRAIN.tensors[1] + 1), "outside 0..3"),
        ("no/such/folder", "is not there"),
    ],
)
def test_training_data_that_would_move_the_means_are_refused(train: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message) as error:
        new(preprocessing=STEPS).fit(network(), train, VAL)
    assert "training images" in str(error.value)


def test_validation_data_pass_the_same_gate_before_anything_is_held() -> None:
    for source, message in ((Endless(), "may never end"), (Augmented(), "fetched again")):
        with pytest.raises(PluginError, match=f"validation images: .*{message}"):
            new().fit(network(), TRAIN, source)
    for train, validation in (
        (TRAIN, TRAIN),
        (TRAIN, DataLoader(TRAIN, 16)),
        (DataLoader(TRAIN, 7, shuffle=True), Subset(Subset(TRAIN, range(120)), range(120))),
    ):
        with pytest.raises(PluginError, match="120 of them are training images too"):
            new().fit(network(), train, validation)
    with pytest.raises(PluginError, match="50 of them are training images too"):
        new().fit(network(), Subset(TRAIN, range(100)), Subset(TRAIN, range(50, 120)))
    assert new().fit(network(), Subset(TRAIN, range(60)), Subset(TRAIN, range(60, 120))).fitted.rows["train"] == 60
    pairs = list(TRAIN)
    for train, validation, count in (
        (ConcatDataset([TRAIN, VAL]), VAL, 60),
        (TRAIN, ConcatDataset([VAL, Subset(TRAIN, range(7))]), 7),
        (ConcatDataset([VAL, TRAIN]), Subset(TRAIN, [-1, 3]), 2),
        (pairs, pairs[:50], 50),
        (TRAIN.tensors, TRAIN.tensors, 120),
    ):
        for detector in ("msp", "nci_plus"):  # the first looks at no training image
            with pytest.raises(PluginError, match=f"{count} of them are training images too;"):
                new(detector, tpr=0.5).fit(network(), train, validation)
    with pytest.raises(PluginError, match="must be a torch.nn.Module"):
        new().fit(lambda images: images, TRAIN, VAL)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_of_training_images_are_found_in_the_pass(workers: int) -> None:
    def copied(count: int) -> TensorDataset:
        images, labels = (torch.cat([a[:count], b]) for a, b in zip(TRAIN.tensors, rows(150, 9).tensors))
        return TensorDataset(images, labels)

    with pytest.raises(PluginError, match="validation images: 3 of 153 hold the same numbers as a training image; a"):
        new(workers=workers).fit(network(), TRAIN, copied(3))
    with pytest.warns(UserWarning, match="validation images: 1 of 151 hold the same numbers"):
        new(workers=workers).fit(network(), TRAIN, copied(1))
    with pytest.raises(PluginError, match="3 of 153 hold the same numbers"):
        recommend(network(), TRAIN, copied(3), ["msp"], like=new(workers=workers))


def test_blank_images_are_one_content_however_many_there_are() -> None:
    def tiles(count: int, seed: int, blank: int) -> TensorDataset:
        images, labels = rows(count, seed).tensors
        return TensorDataset(torch.cat([torch.full_like(images[:blank], -2), images[blank:]]), labels)

    with pytest.warns(UserWarning, match="validation images: 4 of 60 hold the same numbers"):
        new().fit(network(), tiles(120, 1, 20), tiles(60, 2, 4))


@pytest.mark.parametrize(
    "train",
    [
        DataLoader(TRAIN, 8, sampler=SubsetRandomSampler([0] * 120)),
        Subset(TRAIN, [*range(119), 0]),
        Subset(TRAIN, [*range(119), -2]),
        ConcatDataset([TRAIN, TRAIN]),
        [*TRAIN, *[TRAIN[0]] * 2],
    ],
)
def test_images_that_are_given_twice_are_refused(train: Any) -> None:
    with pytest.raises(PluginError, match=r"training images: \d+ of \d+ images are given again"):
        new().fit(network(), train, VAL)
    with pytest.raises(PluginError, match="validation images: .* are given again"):
        new().fit(network(), VAL, train)


def test_files_that_are_in_both_splits_are_refused_and_named(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 60, "val": 40})
    (tmp_path / "link").symlink_to(tmp_path / "train")
    for path in (tmp_path / "train").rglob("*.png"):
        hard = tmp_path / "hard" / path.parent.name / path.name
        hard.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, hard)
    for validation in (
        tmp_path / "train",
        tmp_path / "link",
        tmp_path / "hard",
        *(ImageFolder(str(tmp_path / name), STEPS) for name in ("train", "link", "hard")),
    ):
        for detector in ("nci_plus", "msp"):  # the second asks for no training image
            with pytest.raises(PluginError, match="60 of them are training images too, '.*png' for one"):
                new(detector, preprocessing=STEPS).fit(network(), tmp_path / "train", validation)


class Own(Dataset):
    """Images whose ``samples``, and whose classes, are called as torchvision's and are something else."""

    def __init__(self, images: TensorDataset, samples: Any) -> None:
        self.images, self.samples, self.class_to_idx = images, samples, {"first": [0, 1]}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index]


@pytest.mark.parametrize(
    "samples",
    [
        lambda count, root: count,
        lambda count, root: [(f"{index}.png", 0) for index in range(count)],  # below another root in either set
        lambda count, root: [(f"{root}.png", index) for index in range(count)],  # several parts of one file
    ],
)
def test_samples_of_a_data_set_of_ones_own_are_not_taken_for_files(samples: Any, tmp_path: Path) -> None:
    paths = [tmp_path / "train", tmp_path / "val"]
    for path in paths:
        Image.new("RGB", (16, 16), (9, 9, 9)).save(f"{path}.png")
    train, validation = (Own(images, samples(len(images), path)) for images, path in zip((TRAIN, VAL), paths))
    for settings in ({}, {"preprocessing": STEPS}):
        assert new(**settings).fit(network(), train, validation).fitted.rows["train"] == len(TRAIN)
    with pytest.raises(PluginError, match="50 of them are training images too;"):
        new().fit(network(), train, Subset(train, range(50)))


def test_several_detectors_share_one_pass() -> None:
    model, passed = network(), []
    model.register_forward_hook(lambda _, images, __: passed.append(len(images[0])))
    new("nci").fit(model, TRAIN, VAL)
    alone = sum(passed)
    passed.clear()
    together = [new(name, tpr=tpr) for name, tpr in (("nci", 0.95), ("knn", 0.9), ("mds_pp", 0.9), ("nci_auto", 0.9))]
    fit_together(together, model, TRAIN, VAL)
    assert sum(passed) == alone
    for each in together:
        single = new(each.detector, tpr=each.tpr).fit(network(), TRAIN, VAL)
        assert torch.equal(each.score(TEST), single.score(TEST))
        assert each.threshold() == single.threshold()
        assert each.fitted.rows == single.fitted.rows
    unfitted = [new("nci"), new("nci_auto", tpr=0.99)]
    with pytest.raises(PluginError, match="30 of them calibrate"):
        fit_together(unfitted, model, TRAIN, VAL)
    assert "not fitted" in repr(unfitted[0])


def test_too_few_validation_images_are_refused_before_the_pass() -> None:
    model = network()
    with pytest.raises(PluginError, match="15 of them calibrate, .*needs at least 19"):
        new().fit(model, TRAIN, rows(15, 2))
    with pytest.raises(PluginError, match="15 of them calibrate"):
        new("nci_auto").fit(model, TRAIN, rows(30, 2))


@pytest.mark.parametrize("name", ["nci_plus", "msp"])
def test_labels_in_another_order_are_warned_of(name: str, recwarn: pytest.WarningsRecorder) -> None:
    new(name).fit(network(), TRAIN, VAL)
    assert not len(recwarn)
    rolled = (TensorDataset(images.tensors[0], (images.tensors[1] + 1) % CLASSES) for images in (TRAIN, VAL))
    with pytest.warns(UserWarning, match=r"its label to 0\.0 % of them; .* another order"):
        new(name).fit(network(), *rolled)


def test_a_class_without_images(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 60, "val": 40})
    for path in (tmp_path / "train" / "red").iterdir():
        path.unlink()
    with pytest.raises(PluginError, match="red.*holds no image"):
        new(preprocessing=STEPS).fit(network(), tmp_path / "train", tmp_path / "val")
    there = TRAIN.tensors[1] != 2
    without = TensorDataset(TRAIN.tensors[0][there], TRAIN.tensors[1][there])
    assert torch.isfinite(new().fit(network(), without, VAL).score(TEST)).all()


def test_folders_need_a_preprocessing_and_one_that_is_the_same(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 60, "val": 40})
    with pytest.raises(PluginError, match="needs a preprocessing"):
        new().fit(network(), tmp_path / "train", tmp_path / "val")
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    data = ImageFolder(str(tmp_path / "val"), steps)
    with pytest.raises(PluginError, match="preprocessing: .* was stated, and a data set's own"):
        new(preprocessing=STEPS).fit(network(), tmp_path / "train", data)
    unknown = ImageFolder(str(tmp_path / "val"), lambda picture: STEPS(picture) * 0.9)
    with pytest.raises(PluginError, match="makes other pixels of '.*png'"):
        new(preprocessing=STEPS).fit(network(), tmp_path / "train", unknown)
    same = ImageFolder(str(tmp_path / "val"), lambda picture: STEPS(picture))
    assert new(preprocessing=STEPS).fit(network(), tmp_path / "train", same).fitted.preprocessing == STEPS
    other = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.4] * 3, [0.5] * 3)])
    with pytest.raises(PluginError, match="transforms differ"):
        new().fit(network(), ImageFolder(str(tmp_path / "train"), other), data)
    with pytest.raises(PluginError, match="class_names: must be 4 different names"):
        new(preprocessing=STEPS, class_names=["a", "b"]).fit(network(), tmp_path / "train", tmp_path / "val")


def test_images_that_are_not_those_of_fit_are_refused() -> None:
    detector, _ = fitted()
    with pytest.raises(PluginError, match=r"must be \(3, 8, 8\) each"):
        detector.score(torch.zeros(2, 3, 9, 9))
    with pytest.raises(PluginError, match=r"must be \(3, 8, 8\) each"):
        detector.score(torch.zeros(3, 8, 8))
    for endless in (Endless(), DataLoader(Endless(), 8), iter(TEST)):
        with pytest.raises(PluginError, match="may never end"):
            detector.score(endless)
    bad = TEST.tensors[0].clone()
    bad[5] = torch.nan
    with pytest.raises(PluginError, match="row 5 holds NaN"):
        detector.score(bad)
    with pytest.raises(PluginError, match="not fitted"):
        new().score(bad)
    assert "not fitted" in repr(new())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": registry.create("knn", K=21), "bank_rows": 20}, "got K = 21, and bank_rows .* keeps 20 of 120"),
        ({"detector": registry.create("nnguide", K=121), "bank_rows": 200}, "got K = 121, and there are 120"),
        ({"detector": registry.create("knn", K=121)}, "at most the training images that it keeps"),
        ({"detector": KNN(K="5")}, "K: must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_what_a_bank_cannot_hold_is_refused_before_the_pass(settings: dict[str, Any], message: str) -> None:
    model, passed = network(), []
    model[6].register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))
    with pytest.raises(PluginError, match=message):
        new(**settings).fit(model, TRAIN, VAL)
    assert sum(passed) <= 2 * PROBE_ROWS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tpr": 1.0}, "tpr"),
        ({"tpr": 1e-13}, "tpr: must differ from 0 and 1"),
        ({"seed": -1}, "seed"),
        ({"bank_rows": 0}, "bank_rows"),
        ({"batch_size": 0}, "batch_size"),
        ({"by_class": "yes"}, "by_class: must be one of True, False"),
        ({"holdout": 1}, "holdout: must be one of True, False"),
        ({"store": 3}, "store: must be a directory, or None for memory, got 3"),
        ({"store": ""}, "store: must be a directory"),
        ({"detector": "nci_pluss"}, "did you mean"),
        ({"detector": 3}, "must be a name"),
        ({"preprocessing": "imagenet"}, "preprocessing"),
        ({"class_names": [1, 2, 3, 4]}, r"must be a list of 4 texts, got \[1, 2, 3, 4\]"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        new(**settings).fit(network(), TRAIN, VAL)


def test_settings_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    given = {"seed": np.int64(1), "bank_rows": np.int32(50), "batch_size": np.uint8(20), "workers": np.int64(0)}
    detector = new(KNN(K=np.int64(5)), tpr=np.float32(0.9), **given).fit(network(), TRAIN, VAL)
    expected = new(KNN(K=5), tpr=float(np.float32(0.9)), seed=1, bank_rows=50, batch_size=20).fit(network(), TRAIN, VAL)
    loaded = OODDetector.load(detector.save(tmp_path / "d.safetensors"), network())
    assert loaded.threshold(np.float32(0.75)).value == expected.threshold(0.75).value
    assert torch.equal(loaded.score(VAL), expected.score(VAL))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    detector, _ = fitted()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("pipe.safetensors")
    for name in ("pipe", "link"):
        with pytest.raises(PluginError, match="is there and is no regular file"):
            detector.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "pipe.safetensors").is_fifo()
    assert (tmp_path / "link.safetensors").is_symlink()
    os.mkfifo(tmp_path / "m.pt2")
    with pytest.raises(PluginError, match="is there and is no regular file"):
        export(detector, tmp_path / "m.pt2", "export", TEST)
    with pytest.raises(PluginError, match="is there and is no regular file"):
        check_output_file("--output", tmp_path / "pipe.safetensors", [".safetensors"])
    (tmp_path / "a.safetensors").write_text("")
    (tmp_path / "to.safetensors").symlink_to("a.safetensors")
    detector.save(detector.save(tmp_path / "to.safetensors"))
    detector.save(tmp_path / "new" / "d.safetensors")


def test_images_of_two_sizes_are_refused_where_the_network_takes_any() -> None:
    def sized(side: int, count: int, seed: int) -> TensorDataset:
        images, labels = rows(count, seed).tensors
        return TensorDataset(nn.functional.interpolate(images, size=side), labels)

    for train, validation in ((sized(12, 120, 1), VAL), (TRAIN, sized(12, 60, 2))):
        with pytest.raises(PluginError, match=r"training images: must be \(3, .*\) each, as the others are, got \(3, "):
            new().fit(network(), train, validation)
    new().fit(network(), sized(12, 120, 1), sized(12, 60, 2))
    later = [*TRAIN, *sized(12, 40, 3)]  # in a batch of their own
    with pytest.raises(PluginError, match=r"images must be \(3, 8, 8\) each, as the first ones are, got \(3, 12, 12\)"):
        new(batch_size=40).fit(network(), later, VAL)


def test_names_of_the_folders_in_another_order_are_refused(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 60, "val": 40})
    sources = network(), tmp_path / "train", tmp_path / "val"
    with pytest.raises(PluginError, match="in another order: class 0 is 'blue' there, got 'white'"):
        new("msp", preprocessing=STEPS, class_names=NAMES[::-1]).fit(*sources)
    for names in (NAMES, [f"the {name}" for name in NAMES[::-1]]):
        assert new("msp", preprocessing=STEPS, class_names=names).fit(*sources).fitted.class_names == tuple(names)


@pytest.mark.parametrize("path", [None, 3, "."])
def test_what_is_no_path_of_a_file(path: Any) -> None:
    detector, model = fitted()
    for use in (lambda: detector.save(path), lambda: OODDetector.load(path, model)):
        with pytest.raises(PluginError, match="detector file: must be the path of a file"):
            use()


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    detector, model = fitted()
    for use in (
        lambda: detector.save(path),
        lambda: OODDetector.load(path, model),
        lambda: detector.predict(path),
        lambda: new(preprocessing=STEPS).fit(model, path, VAL),
        lambda: agreed(STEPS, model, path) and new(preprocessing=STEPS).fit(model, TRAIN, path),
    ):
        with pytest.raises(PluginError) as raised:
            use()
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_batch_is_one_line() -> None:
    detector, _ = fitted()
    module = detector.module()
    with pytest.raises(PluginError, match="images: must be a batch of images .*, got a single number"):
        detector.predict(torch.tensor(3.0))
    for images in (list(TEST.tensors[0]), TEST.tensors[0].numpy()):
        with pytest.raises(PluginError, match=rf"images: must be a tensor .*, got {type(images).__name__}"):
            module(images)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.to_sparse(), "must be a dense tensor, got one that is sparse"),
        (lambda image: image.to("meta"), "must be a dense tensor, got one that is without data"),
        (lambda image: torch.nested.nested_tensor(list(image)), "must be a dense tensor, got one that is nested"),
        (lambda image: image.to(torch.float8_e4m3fn), "must be a dense tensor, got one that is float8"),
        (lambda image: image * 1j, "must be real numbers, got complex64"),
    ],
)
def test_images_that_are_no_dense_numbers_are_one_line(change: Any, message: str) -> None:
    changed = [(change(image), int(label)) for image, label in TRAIN]
    for train, validation in ((changed, VAL), (TRAIN, changed)):
        with pytest.raises(PluginError, match=rf"images: image 0: its pixels: {message}"):
            new().fit(network(), train, validation)
    detector, _ = fitted()
    for images in (change(TEST.tensors[0]), [image for image, _ in changed]):
        with pytest.raises(PluginError, match=message):
            detector.score(images)
    turned = [(image.numpy()[:, ::-1].astype(">f4"), label) for image, label in TEST]
    assert torch.equal(detector.score(turned), detector.score(TEST.tensors[0].flip(2)))


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: logits,
        lambda logits: logits[:1, 0],
        lambda logits: 3.0,
        lambda logits: logits.argmax(1),
        lambda logits: logits[:, 0] > 0,
        lambda logits: logits[:, 0].bfloat16(),
        lambda logits: logits[:, 0] + 0j,
    ],
)
def test_a_detector_of_ones_own_gives_one_score_a_row(answer: Any) -> None:
    class Own(Detector):
        name = "own_shape"

        def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return answer(logits)

    with pytest.raises(PluginError, match="'own_shape': _score must give a tensor of one score for each of 60 rows"):
        new(Own()).fit(network(), TRAIN, VAL)


def test_weights_that_a_detector_of_ones_own_learned_have_no_graph() -> None:
    class Own(Detector):
        name = "own_parameter"

        def _fit(self, training: Any, head: Any, validation: Any) -> None:
            self.weight_ = nn.Parameter(head.weight.clone())

        def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return (features @ self.weight_.T).amax(dim=1)

    detector = new(Own()).fit(network(), TRAIN, VAL)
    assert not detector.score(TEST).requires_grad


@pytest.mark.parametrize("name", ["knn", "nci_plus", "nci_gated", "vim", "ora", "ras"])
def test_the_default_type_of_tensors_does_not_matter(name: str) -> None:
    expected = new(name).fit(network(), TRAIN, VAL).score(TEST)
    try:
        torch.set_default_dtype(torch.float64)
        found = new(name).fit(network(), TRAIN, VAL).score(TEST)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


# -------------------------------------------------------------------- preprocessing


def test_what_a_detector_of_ones_own_raises_is_named_and_nothing_is_fitted() -> None:
    class Raises(Detector):
        """Raises."""

        name = "raises"

        def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            raise ValueError("what\nit says")

    both = [new("msp"), new(Raises())]
    with pytest.raises(PluginError, match=r"^detector 'raises': ValueError: what it says; mend it") as raised:
        fit_together(both, network(), TRAIN, VAL)
    assert isinstance(raised.value.__cause__, ValueError)
    assert "not fitted" in repr(both[0])


def test_preprocessing_of_weights_and_transforms_gives_the_same_pixels() -> None:
    weights = ResNet18_Weights.IMAGENET1K_V1
    found = stated(weights)
    assert (found.pre_size, found.img_size) == (256, 224)  # type: ignore[union-attr]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8))
    assert torch.allclose(found(picture), weights.transforms()(picture), atol=1e-6)  # type: ignore[misc]
    composed = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.1] * 3, [1] * 3),
        ]
    )
    ours = of_transform(composed)
    assert ours is not None
    assert torch.equal(ours(picture), composed(picture))
    for other in (
        transforms.Compose([transforms.RandomHorizontalFlip(), *composed.transforms]),
        transforms.Compose([transforms.Resize((40, 40)), *composed.transforms[1:]]),
        transforms.Compose(composed.transforms[:-1]),
        transforms.ToTensor(),
        None,
    ):
        assert of_transform(other) is None


def test_transforms_of_torchvisions_second_version_are_read_as_those_of_the_first(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8))
    size, end = [v2.Resize(40, antialias=True), v2.CenterCrop(32)], [v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize([0.1] * 3, [0.5] * 3)
    expected = Preprocessing(40, 32, ((0.1,) * 3, (0.5,) * 3))
    for steps in ([*size, v2.ToImage(), *end], [v2.ToImage(), *size, *end], [*size, transforms.ToTensor()]):
        composed = v2.Compose([*steps, normalize])
        assert stated(composed) == expected
        assert float((expected(picture) - composed(picture)).abs().max()) < 0.02
    for other in (
        [*size, *end, normalize],  # nothing makes a tensor of it
        [v2.ToImage(), v2.Resize(40, antialias=False), *size[1:], *end, normalize],
        [v2.ToImage(), v2.Resize([40, 40], antialias=True), *size[1:], *end, normalize],
        [v2.ToImage(), *size, v2.ToDtype(torch.float32), normalize],
        [v2.ToImage(), v2.RandomHorizontalFlip(), *size, *end, normalize],
    ):
        assert of_transform(v2.Compose(other)) is None
    folders(tmp_path, {"val": 40})
    composed = v2.Compose([v2.ToImage(), v2.CenterCrop(8), *end, v2.Normalize([0.5] * 3, [0.25] * 3)])
    found = agreed(None, network(), ImageFolder(str(tmp_path / "val"), composed))
    assert found == Preprocessing(None, 8, STEPS.normalization)


def _composed(size: int = 8) -> transforms.Compose:
    normalize = transforms.Normalize([0.5] * 3, [0.25] * 3)
    return transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor(), normalize])


class InMemory(Dataset):
    """PIL images, as torchvision's CIFAR10 makes them of its arrays, with a transform."""

    def __init__(self, then: Any = lambda image: image) -> None:
        generator = np.random.default_rng(0)
        self.data, self.then, self.transform = (
            generator.integers(0, 255, (80, 8, 8, 3)).astype(np.uint8),
            then,
            _composed(),
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image: Any = Image.fromarray(self.data[index])
        return self.then(self.transform(image) if self.transform is not None else image), index % CLASSES


def _upside_down(path: str) -> Image.Image:
    return Image.open(path).convert("RGB").transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def _twice(batch: Any) -> Any:
    images, labels = default_collate(batch)
    return 2 * images, labels


def test_preprocessing_is_found_only_where_the_images_are_made_so(tmp_path: Path) -> None:
    """Of a data set that does more than its transform says, files were scored as if the transform were all."""
    folders(tmp_path, {"val": 40, "deep": 8})
    for path in (tmp_path / "deep").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257).save(path)
    plain = ImageFolder(str(tmp_path / "val"), _composed())
    model = network()
    for same in (plain, Subset(plain, [3, 1]), DataLoader(plain, 4, shuffle=True), InMemory()):
        assert agreed(None, model, same) == STEPS
        assert agreed(STEPS, model, same) == STEPS
    deep = ImageFolder(str(tmp_path / "deep"), _composed())
    turned = ImageFolder(str(tmp_path / "val"), _composed(), loader=_upside_down)
    for other in (
        turned,
        DataLoader(plain, 4, collate_fn=_twice),
        InMemory(lambda image: -image if isinstance(image, torch.Tensor) else image),
        deep,
    ):
        with pytest.warns(UserWarning, match="preprocessing: a data set's transform is .* makes other pixels of"):
            assert agreed(None, model, plain, other) is None
        with pytest.raises(PluginError, match="was stated, and a data set's own transform makes other pixels of"):
            agreed(STEPS, model, plain, other)
    hidden = TensorDataset(*VAL.tensors)
    hidden.transform = _composed()  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="what it is applied to cannot be seen"):
        assert agreed(None, model, plain, hidden) is None
    with pytest.warns(UserWarning, match="so it is not taken as the network's"):
        detector = new(tpr=0.9).fit(model, TRAIN, turned)
    assert torch.equal(detector.score(turned), detector.score(torch.stack([image for image, _ in turned])))
    rotated = transforms.Compose([transforms.RandomRotation(90), *_composed().transforms])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of an augmented image it would say that files cannot be scored
        with pytest.raises(PluginError, match="fetched again"):
            new(tpr=0.9).fit(model, ImageFolder(str(tmp_path / "val"), rotated), plain)
    with pytest.raises(PluginError, match="needs a preprocessing"):
        detector.score(tmp_path / "val")


def test_preprocessing_of_timm_is_read_off_its_configuration() -> None:
    model = network()
    assert of_timm(model) is None
    model.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, 224, 224),
        "crop_pct": 0.9,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
    }
    assert of_timm(model) == Preprocessing(248, 224, ((0.5,) * 3, (0.5,) * 3), "bicubic")
    # It says how files become its input, and nothing of tensors that are ready.
    assert agreed(None, model, "train") == of_timm(model)
    assert agreed(None, model, [(Image.new("RGB", (9, 9)), 0)]) == of_timm(model)
    assert agreed(None, model, TRAIN, DataLoader(VAL, 8)) is None
    assert agreed(STEPS, model, TRAIN) == STEPS
    for left_out in ({"crop_pct": None, "interpolation": ""}, {}):
        said = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std")}  # type: ignore[index]
        other = network()
        other.pretrained_cfg = {**said, **left_out}  # type: ignore[assignment]
        assert of_timm(other) == Preprocessing(256, 224, ((0.5,) * 3, (0.5,) * 3), "bicubic")
    model.pretrained_cfg["crop_mode"] = "squash"  # type: ignore[index,operator]
    assert of_timm(model) is None


# -------------------------------------------------------------------- the file


def test_a_file_in_a_new_process(tmp_path: Path) -> None:
    detector, model = fitted(class_names=NAMES)
    detector.save(tmp_path / "d.safetensors")
    torch.save(model.state_dict(), tmp_path / "net.pt")
    torch.save(TEST.tensors[0], tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import served; from nci_plugin import OODDetector\n"
        "model = served.network(7); model.load_state_dict(torch.load('net.pt', weights_only=True))\n"
        "found = OODDetector.load('d.safetensors', model).predict(torch.load('images.pt', weights_only=True))\n"
        "torch.save({'scores': found.scores, 'p': found.p_values, 'ood': found.is_ood}, 'out.pt')\n"
        "print(found.classes[0])"
    )
    here = str(Path(served.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, here], cwd=tmp_path, capture_output=True, text=True, check=True)
    found, expected = torch.load(tmp_path / "out.pt", weights_only=True), detector.predict(TEST.tensors[0])
    assert torch.equal(found["scores"], expected.scores)
    assert torch.equal(found["p"], expected.p_values)
    assert torch.equal(found["ood"], expected.is_ood)
    assert done.stdout.strip() == expected.classes[0]


def test_what_the_file_says_is_what_the_reference_says(tmp_path: Path) -> None:
    detector, _ = fitted("nci_auto", class_names=NAMES)
    detector.save(tmp_path / "d.safetensors")
    with safetensors.safe_open(tmp_path / "d.safetensors", "pt") as stored:
        record, keys = json.loads(stored.metadata()["nci_plugin"]), set(stored.keys())
    assert record["rows"] == {"train": 120, "validation_fit": 30, "calibration": 30}
    assert record["settings"] == {"tpr": 0.95, "by_class": False, "seed": 0}
    assert record["preprocessing"]["img_size"] == 8
    assert record["class_names"] == list(NAMES)
    assert {"calibration.scores", "calibration.classes", "probe.features", "learned.mean_"} <= keys
    reference = (Path(__file__).parents[1] / "docs" / "reference" / "detector_file.md").read_text(encoding="utf-8")
    for name in [*record, *record["network"], *record["rows"], *record["settings"]]:
        assert f"`{name}`" in reference, name
    for name in ("calibration.scores", "calibration.classes", "probe.features", "probe.logits", "probe.scores"):
        assert f"`{name}`" in reference, name


@pytest.mark.parametrize("how", ["same", "data parallel", "prefix", "compiled", "compiled inside", "train mode"])
def test_the_same_network_loads_however_it_is_wrapped(how: str, tmp_path: Path, compiler: None, recwarn: Any) -> None:
    detector, model = fitted()
    path = detector.save(tmp_path / "d.safetensors")
    inner: Any = network().train(how == "train mode")
    wrapped = {
        "data parallel": lambda: nn.DataParallel(inner),
        "prefix": lambda: nn.Sequential(nn.Sequential(inner)),
        "compiled": lambda: torch.compile(inner, backend="eager"),
        "compiled inside": lambda: nn.Sequential(torch.compile(inner, backend="eager")),
    }.get(how, lambda: inner)()
    loaded = OODDetector.load(path, wrapped)
    assert torch.equal(loaded.score(TEST), detector.score(TEST))
    assert not [each for each in recwarn if "fitted on a network in" in str(each.message)]
    assert torch.equal(loaded.module()(TEST.tensors[0])[1], detector.module()(TEST.tensors[0])[1])
    with pytest.raises(PluginError, match="other weights"):
        OODDetector.load(path, nn.DataParallel(network(1)) if how == "data parallel" else network(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_precision_loads_with_a_line(dtype: torch.dtype, tmp_path: Path) -> None:
    skip_unless_computed(dtype)
    detector, model = fitted()
    path = detector.save(tmp_path / "d.safetensors")
    cast = network().to(dtype)
    with pytest.warns(UserWarning, match=f"fitted on a network in float32, this one is in {str(dtype)[6:]}"):
        loaded = OODDetector.load(path, cast)
    images = TEST.tensors[0].double() if dtype == torch.float64 else TEST.tensors[0]
    assert torch.allclose(loaded.score(images), detector.score(TEST), atol=0.3)
    with pytest.raises(PluginError, match="other weights"):
        OODDetector.load(path, network(1).to(dtype))


def test_a_bf16_network_is_fitted_and_loads_in_float32_with_a_line(tmp_path: Path) -> None:
    detector = new().fit(network().bfloat16(), TRAIN, VAL)
    path = detector.save(tmp_path / "d.safetensors")
    assert torch.equal(OODDetector.load(path, network().bfloat16()).score(TEST), detector.score(TEST))
    with pytest.warns(UserWarning, match="in bfloat16, this one is in float32"):
        OODDetector.load(path, network().bfloat16().float())
    changed = network()
    changed[6].weight.data *= 1.5
    with pytest.raises(PluginError, match="other weights"):
        OODDetector.load(path, changed)


def test_a_network_that_computes_something_else_with_the_same_weights_is_refused(tmp_path: Path) -> None:
    detector, model = fitted()
    path = detector.save(tmp_path / "d.safetensors")
    other = network()
    other[2] = nn.GELU()
    with pytest.raises(PluginError, match="gives other features"):
        OODDetector.load(path, other)

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner((images - 0.5) * 2)

    with pytest.raises(PluginError, match="gives other features"):
        OODDetector.load(path, Normalised())
    slightly = network()
    with torch.no_grad():
        slightly[0].weight[0, 0, 0, 0] += 1e-7
    with pytest.raises(PluginError, match="other weights"):
        OODDetector.load(path, slightly)


class Uncounted(torch.optim.Optimizer):
    """Writes to weights, as fused kernels do, without their count of writes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.mul_(1.01)


@pytest.mark.parametrize("how", ["in place", "fused", "batch norm", "replaced", "loaded", "a layer", "moved"])
def test_a_network_that_was_trained_on_is_refused_wherever_it_is_asked(how: str, tmp_path: Path) -> None:
    detector, model = fitted()
    assert len(detector.predict(TEST)) == 40
    if how == "in place":
        with torch.no_grad():
            model[0].weight.mul_(1.01)
    elif how == "fused":
        Uncounted([model[0].weight]).step()
    elif how == "batch norm":
        model.train()(TEST.tensors[0])
        model.eval()
    elif how == "replaced":
        model[6].weight = nn.Parameter(model[6].weight * 2)
    elif how == "loaded":
        model.load_state_dict(network(1).state_dict())
    elif how == "a layer":
        model[6] = copy.deepcopy(network(1)[6])
    else:
        model.double().float()
        model[0].weight.data *= 2
    for ask in (lambda: detector.score(TEST), lambda: detector.predict(TEST), lambda: detector.save(tmp_path / "d")):
        with pytest.raises(PluginError, match="detector 'nci_plus': was fitted on Sequential .* with other weights"):
            ask()
    assert not list(tmp_path.iterdir())


class Doubled(nn.Module):
    """Two branches and two linear layers whose names are one without the wrappers' ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.module = nn.Conv2d(3, 16, 3), nn.Linear(16, CLASSES), nn.Module()
        self.module.body, self.module.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, CLASSES)

    def forward(self, images: torch.Tensor) -> Any:
        self.fc(self.body(images).relu().mean((2, 3)))  # of another task, say
        return self.module.fc(self.module.body(images).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:validation images. the network gives")
@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential])
def test_names_that_wrappers_give_are_told_from_the_networks_own(wrap: Any, tmp_path: Path) -> None:
    model = Doubled().eval()
    detector = new("nci").fit(model, TRAIN, VAL)
    expected = detector.score(TEST)
    loaded = OODDetector.load(detector.save(tmp_path / "d.safetensors"), wrap(copy.deepcopy(model)))
    assert torch.allclose(loaded.score(TEST), expected, atol=1e-5)
    assert torch.allclose(detector.module()(TEST.tensors[0])[1], expected, atol=1e-4)
    for branch in (model, model.module):
        before = copy.deepcopy(branch.body)
        with torch.no_grad():
            branch.body.weight.mul_(3)
        with pytest.raises(PluginError, match="with other weights"):
            detector.score(TEST)
        branch.body = before
    assert torch.equal(detector.score(TEST), expected)


def test_the_same_weights_are_hashed_once_where_they_were_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, model = fitted()
    expected, hashed = detector.score(TEST), []
    check = type(detector.fitted.network).check
    monkeypatch.setattr(type(detector.fitted.network), "check", lambda *args: hashed.append(1) or check(*args))
    with torch.inference_mode():
        assert torch.equal(detector.score(TEST), expected)
    model.train()
    assert torch.equal(detector.score(TEST), expected)
    assert not hashed
    model.load_state_dict(network().state_dict())
    assert torch.equal(detector.score(TEST), expected)
    assert torch.equal(detector.score(TEST), expected)
    assert len(hashed) == 1
    Uncounted(network().parameters()).step()  # of another network: the weights are looked at, and are the same
    assert torch.equal(detector.score(TEST), expected)
    assert torch.equal(detector.score(TEST), expected)
    assert len(hashed) == 2
    model.double()
    with pytest.warns(UserWarning, match="in float32, this one is in float64"):
        detector.score(TEST.tensors[0].double())


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    detector, model = fitted(registry.create("msp"))
    path = detector.save(tmp_path / "d.safetensors")
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    places = {0, 8, len(data) - 1, *generator.integers(0, len(data), 40).tolist()}
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(PluginError, match="detector file"):
            OODDetector.load(path, model)
    for part in (b"", data[:100], data[: len(data) // 2], data + b"x"):
        path.write_bytes(part)
        with pytest.raises(PluginError, match="detector file"):
            OODDetector.load(path, model)
    with pytest.raises(PluginError, match="No such file"):
        OODDetector.load(tmp_path / "none.safetensors", model)


def rewritten(
    path: Path, other: dict[str, Any] | None = None, more: dict[str, torch.Tensor] | None = None, **changes: Any
) -> None:
    """The file with ``other`` tensors and values, and their checksum: what a hostile hand can make."""
    with safetensors.safe_open(path, "pt") as stored:
        record = json.loads(stored.metadata()["nci_plugin"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no mapping
    record.pop("checksum")
    record.update(changes)
    tensors.update({name: change(tensors[name]).contiguous() for name, change in (other or {}).items()})
    tensors.update(more or {})
    record["checksum"] = file._checksum(record, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"nci_plugin": json.dumps(record)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"formula": 99},
        {"detector": "os.system"},
        {"detector": "../x"},
        {"learned": {"__class__": 3}},
        {"learned": {"score_": {"kind": "tensor"}, "_score": 1}},
        {"learned": {"mean_": {"kind": "pickle"}}},
        {"learned": {"mean_": {"kind": "rows"}}},
        {"hyperparameters": {"beta": 1}},
        {"network": {}},
        {"preprocessing": {"img_size": 8}},
        {"settings": None},
        {"settings": {"by_class": False, "seed": 0}},
        {"settings": {"tpr": 2, "by_class": False, "seed": 0}},
        {"rows": {}},
        {"rows": {"train": "x", "validation_fit": 0, "calibration": 60}},
        {"class_names": "abcd"},
        {"class_names": ["a"]},
        {"class_names": [1, 2, 3, 4]},
        {"detector": "pytorch_ood:entropy"},
        {"format": True},
        {"settings": {"tpr": 0.95, "by_class": "no", "seed": 0}},
        {"settings": {"tpr": 0.95, "by_class": 0, "seed": 0}},
        {"settings": {"tpr": 0.95, "by_class": False, "seed": "x"}},
        {"settings": {"tpr": 1e-13, "by_class": False, "seed": 0}},
        {"unknown": 1},
    ],
)
def test_a_file_that_was_made_up_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    rewritten(path)
    OODDetector.load(path, model)
    rewritten(path, **changes)
    with pytest.raises(PluginError):
        OODDetector.load(path, model)


@pytest.mark.parametrize("name", ["more", "learned.more_", "learned.mean_.weight", "probe.more"])
def test_a_file_with_another_tensor_is_refused(name: str, tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    rewritten(path, more={name: torch.zeros(3)})
    with pytest.raises(PluginError, match=f"the tensor '{name.removeprefix('learned.')}' is"):
        OODDetector.load(path, model)


def test_a_shape_of_images_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    with safetensors.safe_open(path, "pt") as stored:
        of = json.loads(stored.metadata()["nci_plugin"])["network"]
    for shape, message in (([3, 8192, 8192], "at most 67108864 numbers"), ([], "no network takes")):
        rewritten(path, network={**of, "image_shape": shape})
        with pytest.raises(PluginError, match=message):
            OODDetector.load(path, model)


def test_what_a_file_says_of_its_network_and_images_is_checked(tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    with safetensors.safe_open(path, "pt") as stored:
        record = json.loads(stored.metadata()["nci_plugin"])
    network_of, steps = record["network"], record["preprocessing"]
    for changes, message in (
        ({"network": {**network_of, "digests": dict.fromkeys(network_of["digests"], 3)}}, "as texts"),
        ({"network": {**network_of, "dtype": 3}}, "as texts"),
        ({"preprocessing": {**steps, "img_size": 60000}}, r"img_size must be that of the images, \(3, 8, 8\)"),
    ):
        rewritten(path, **changes)
        with pytest.raises(PluginError, match=message):
            OODDetector.load(path, model)
        rewritten(path, **record)
    rewritten(path, network={**network_of, "name": "Net\n\x1b[2J"})
    assert repr(OODDetector.load(path, model)).isprintable()


def test_a_preprocessing_to_another_size_than_the_tensors_is_refused() -> None:
    with pytest.raises(PluginError, match=r"img_size must be that of the images, \(3, 8, 8\), got 9"):
        new(preprocessing=Preprocessing(9, 9, STEPS.normalization)).fit(network(), TRAIN, VAL)


def with_nan(values: torch.Tensor) -> torch.Tensor:
    changed = values.clone()
    changed.view(-1)[len(changed) // 2] = torch.nan
    return changed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calibration.scores", with_nan),
        ("calibration.scores", lambda scores: scores.flip(0)),
        ("calibration.scores", lambda scores: scores[:0]),
        ("calibration.scores", lambda scores: scores[None]),
        ("calibration.scores", lambda scores: scores[:30]),
        ("calibration.scores", lambda scores: scores.long()),
        ("calibration.classes", lambda classes: classes + 99),
        ("calibration.classes", lambda classes: classes.float()),
        ("learned.mean_", lambda mean: mean[:3]),
        ("learned.mean_", lambda mean: mean.long()),
        ("learned.weight_", with_nan),
        ("learned.weight_", lambda weight: weight[:2]),
        ("probe.scores", lambda scores: scores[:0]),
        ("probe.scores", with_nan),
        ("probe.features", lambda features: features[:, :3]),
        ("probe.logits", lambda logits: logits[:, :2]),
    ],
)
def test_tensors_that_were_made_up_are_refused(name: str, change: Any, tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    rewritten(path, {name: change})
    with pytest.raises(PluginError, match="detector file") as error:
        OODDetector.load(path, model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [[3, 10**5, 10**5], [3, -8, 8], "abc", [3.0, 8, 8]])
def test_a_shape_that_no_image_has_is_refused_before_anything_is_made(shape: Any, tmp_path: Path) -> None:
    detector, model = fitted("nci")
    path = detector.save(tmp_path / "d.safetensors")
    with safetensors.safe_open(path, "pt") as stored:
        network_of = json.loads(stored.metadata()["nci_plugin"])["network"]
    rewritten(path, network={**network_of, "image_shape": shape})
    with pytest.raises(PluginError, match="detector file"):
        OODDetector.load(path, model)


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Mine(registry.detector_class("msp")):  # type: ignore[misc]
        pass

    detector, _ = fitted(Mine)
    with pytest.raises(PluginError, match="only registered detectors"):
        detector.save(tmp_path / "d.safetensors")
    theirs, _ = fitted("pytorch_ood:entropy")
    assert torch.isfinite(theirs.score(TEST)).all()
    with pytest.raises(PluginError, match="only registered detectors"):
        theirs.save(tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


class _Kept(Detector):
    """Score = -||h - mu_G||_2; mu_G is the attribute ``place``."""

    fits_on = FitsOn.STATISTICS
    paper = Paper("An example", "", "this test", 2026, "")

    def _fit(self, training: Any, head: Any, validation: Any) -> None:
        setattr(self, self.place, training.global_mean)

    def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return -(features - getattr(self, self.place).to(features)).norm(dim=1)

    place = "mean_"


class _Elsewhere(_Kept):
    name, place = "keeps_elsewhere", "_mean"


class _WithoutUnderscore(_Kept):
    name, place = "keeps_without_underscore", "mean"


class _NeedsAnArgument(_Kept):
    name = "needs_an_argument"

    def __init__(self, power: float) -> None:
        self.power = power


class _Draws(_Kept):
    name = "draws"

    def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(features))


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (_Elsewhere(), "no attribute '_mean'"),
        (_WithoutUnderscore(), "no attribute 'mean'"),
        (_NeedsAnArgument(2.0), "missing 1 required positional argument: 'power'"),
        (_Draws(), "scores otherwise"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    detector: Detector, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_DETECTORS", {**registry._DETECTORS, detector.name: type(detector)})
    mine, _ = fitted(detector)
    with pytest.raises(PluginError, match=f"is not written, as it could not be read back: .*{reason}.*underscore"):
        mine.save(tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [torch.log, torch.sqrt])
def test_a_network_that_takes_no_negative_numbers_has_a_file_and_a_module(step: Any, tmp_path: Path) -> None:
    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(step(images))

    model = Positive()
    train, val, test = (
        TensorDataset(images.tensors[0].sub(images.tensors[0].min()).add(0.1), images.tensors[1])
        for images in (TRAIN, VAL, TEST)
    )
    detector = new().fit(model, train, val)
    assert not detector.fitted.probe.features.isfinite().all()
    loaded = OODDetector.load(detector.save(tmp_path / "d.safetensors"), model)
    assert torch.equal(loaded.score(test), detector.score(test))
    with torch.no_grad():
        scores = loaded.module()(test.tensors[0])[1]
    assert torch.allclose(scores, detector.score(test), atol=1e-4)


def test_a_detector_that_the_collapse_refuses_is_named() -> None:
    several = [new("msp"), new("mds_pp")]
    with pytest.raises(PluginError, match="^detector 'mds_pp': collapse: variance within classes needs a class of two"):
        fit_together(several, network(), Subset(TRAIN, range(CLASSES)), VAL)


def test_a_network_of_one_number_is_refused() -> None:
    model = nn.Sequential(*network()[:-1], nn.Linear(32, 1))
    with pytest.raises(PluginError, match="gives one number an image, and detectors compare classes; end it in a lin"):
        new().fit(model, TRAIN, VAL)


def test_scored_images_are_not_kept() -> None:
    detector, _ = fitted(registry.create("knn_l1", K=3))
    detector.score(TEST)
    assert detector.fitted.detector._kept == {}  # type: ignore[attr-defined]


def test_fitting_again_and_copying_leave_the_first_alone() -> None:
    detector, model = fitted()
    before = detector.fitted
    other = copy.copy(detector).fit(served.network(1), TRAIN, VAL)
    assert detector.fitted is before
    assert other.fitted is not before
