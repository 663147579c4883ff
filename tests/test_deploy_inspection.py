"""`explain` and `diagnose` without any list, and what `recommend` ranks and admits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import served
import torch
from served import CLASSES, NAMES, STEPS, folders, rows
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import nci_plugin
from nci_plugin import Benchmark, OODDetector, PluginError, evaluate, recommend
from nci_plugin.cli.main import main
from nci_plugin.collapse import measure
from nci_plugin.config import load_detector
from nci_plugin.deploy.choice import (
    CANDIDATES,
    HELD_OUT,
    KINDS,
    MIDPOINTS,
    Recommendation,
    rank,
    statistics_of,
)
from nci_plugin.deploy.inspection import diagnose, explain
from nci_plugin.deploy.track_record import MeasuredRow, measured_rows, track_record
from nci_plugin.detectors import MSP, registry
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead

TRAIN, VAL, TEST, OOD = rows(120, 1), rows(80, 2), rows(40, 3), rows(30, 4, ood=True)


def quiet(**settings: object) -> OODDetector:
    return OODDetector(progress=False, **settings)  # type: ignore[arg-type]


def test_one_image_is_explained_from_loaders_as_from_folders(tmp_path: Path) -> None:
    folders(tmp_path, {"train": 60, "val": 40, "mixed": 4})
    model = served.network()
    path = tmp_path / "mixed" / "id_000.png"
    by_path = explain(model, path, tmp_path / "train", tmp_path / "val", like=quiet(preprocessing=STEPS))
    with torch.no_grad():
        from PIL import Image

        assert by_path.predicted == int(model(STEPS(Image.open(path))[None]).argmax())
    assert by_path.num_validation == 40
    assert {score.detector for score in by_path.scores} >= {"nc1", "pscore"}
    assert NAMES[by_path.predicted] in repr(by_path)
    named = diagnose(model, ImageFolder(str(tmp_path / "train"), STEPS), tmp_path / "val", like=quiet())
    assert tuple(named.record.class_names) == NAMES
    stated = quiet(preprocessing=STEPS, class_names=list("abcd"))
    assert diagnose(model, tmp_path / "train", tmp_path / "val", like=stated).record.name_of(1) == "b"
    (tmp_path / "val" / NAMES[1]).rename(tmp_path / "val" / "other")
    with pytest.raises(PluginError, match="class names: those of two sets of images differ"):
        explain(model, path, tmp_path / "train", tmp_path / "val", like=quiet(preprocessing=STEPS))
    with pytest.raises(PluginError, match="image: must be one image, got several"):
        explain(model, tmp_path / "mixed", tmp_path / "train", tmp_path / "train", like=quiet(preprocessing=STEPS))
    loader = DataLoader(TRAIN, 16, shuffle=True)
    by_tensor = explain(model, TEST.tensors[0][0], loader, VAL, detectors=["nci_plus", "knn"], like=quiet())
    detector = quiet().fit(model, TRAIN, VAL)
    plus = by_tensor.scores[0]
    assert plus.value == pytest.approx(float(detector.score(TEST.tensors[0][:1])), abs=1e-5)
    assert plus.percentile == pytest.approx(100 * np.mean(detector.fitted.calibration.scores <= plus.value), abs=1.5)


def test_a_small_share_keeps_the_best_image_alone() -> None:
    """A TPR that keeps less than one image gave the threshold that keeps all."""
    found = [
        explain(served.network(), TEST[0][0], TRAIN, VAL, detectors=["msp"], tpr=tpr, like=quiet()).scores[0].threshold
        for tpr in (1e-13, 1 / 80, 1.0)
    ]
    assert found[0] == found[1] > found[2]


def test_a_network_is_diagnosed_from_data_sets(tmp_path: Path) -> None:
    model = served.network()
    found = diagnose(model, TRAIN, TEST, validation=VAL, near={"ood": OOD}, like=quiet()).record
    assert found.collapse.values["nc1_quotient"] > 0
    assert found.nc4["id/test"].accuracy > 0.3
    benchmark = Benchmark.from_splits("b", CLASSES, train=TRAIN, test=TEST, near={"ood": OOD})
    expected = evaluate(model, benchmark, ["pscore"], progress=False).results[0].auroc
    assert found.auroc["pscore"]["near"] == pytest.approx(expected, abs=1e-9)
    alone = diagnose(model, TRAIN, TEST, like=quiet()).record
    assert alone.auroc == {}
    assert alone.collapse == found.collapse
    with pytest.raises(PluginError, match="images of near/x: 'no/such' is not there"):
        diagnose(model, TRAIN, TEST, near={"x": "no/such"}, like=quiet())


def test_copies_of_training_images_are_no_validation_images() -> None:
    copies = TensorDataset(TRAIN.tensors[0].clone(), TRAIN.tensors[1])
    for ask in (
        lambda: explain(served.network(), TEST[0][0], TRAIN, copies, detectors=["msp"], like=quiet()),
        lambda: diagnose(served.network(), TRAIN, TEST, validation=copies, like=quiet()),
    ):
        with pytest.raises(PluginError, match="validation images: .* hold the same numbers as a training image"):
            ask()


def test_a_diagnosis_has_metrics_sentences_and_figures() -> None:
    found = nci_plugin.diagnose(served.network(), TRAIN, TEST, near={"ood": OOD}, like=quiet())
    collapse = found.record.collapse.values
    assert found.metrics["nc1_quotient"] == collapse["nc1_quotient"]
    assert found.sentences[0].startswith(f"NC1: Tr(Sigma_W) / Tr(Sigma_B) on train is {collapse['nc1_quotient']:.4g}")
    assert repr(found).startswith(f"Inspection(nc1_quotient={collapse['nc1_quotient']:.4g}, ")
    assert len(repr(found)) < 200
    shown = found._repr_html_()
    assert shown.count("<li>") == len(found.sentences)
    assert f"<td>{collapse['nc1_quotient']:.4g}</td>" in shown
    figures = found.figures()
    assert {"variances", "duality", "cosines", "roc", "plane", "scores_near"} <= set(figures)
    assert not {"layers", "scores_far", "scores_csid"} & set(figures)
    titles = [axes.get_title() for axes in figures["scores_near"].axes]
    assert f"pScore, AUROC {found.record.auroc['pscore']['near']:.1f} %" in titles
    alone = nci_plugin.diagnose(served.network(), TRAIN, TEST, like=quiet())
    assert alone.sentences
    assert "roc" not in alone.figures()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: explain(model, TEST[0][0], TRAIN, VAL, detectors=[], like=quiet()),
            "detectors: must be at least",
        ),
        (lambda model: explain(model, TEST[0][0], TRAIN, VAL, like="nci"), "like: must be an OODDetector"),
        (lambda model: explain(model, TEST[0][0], TRAIN, TRAIN, like=quiet()), "validation images: 120 of"),
        (lambda model: diagnose(model, TRAIN, TEST, validation=TRAIN, like=quiet()), "validation images: 120 of them"),
        (lambda model: explain(model, TEST.tensors[0][:4], TRAIN, VAL, like=quiet()), "image: must be one image, got"),
        (lambda model: explain(model, [each[0] for each in VAL], TRAIN, VAL, like=quiet()), "image: must be one image"),
        (lambda model: explain(model, TEST[0][0], TRAIN, VAL, tpr=95, like=quiet()), "tpr: must be .* at most 1"),
        (
            lambda model: explain(model, torch.zeros(3, 9, 9), TRAIN, VAL, like=quiet()),
            "image: must be .3, 8, 8., .* got",
        ),
        (lambda model: diagnose(model, TRAIN, TEST, near=[OOD], like=quiet()), "near must map names of data sets"),
        (
            lambda model: diagnose(model, TRAIN, TEST, near={"x": torch.tensor(3.0)}, like=quiet()),
            "near/x: an array of",
        ),
        (lambda model: diagnose(model, TRAIN, None, like=quiet()), "images of id/test: must be a Dataset"),
        (lambda model: recommend(model, TRAIN, VAL, [], like=quiet()), "detectors: must be at least"),
        (lambda model: recommend(model, TRAIN, VAL, [MSP], like=quiet()), "detectors: must be .* names?, got .*MSP"),
        (lambda model: recommend(model, TRAIN, VAL, 5, like=quiet()), "detectors: must be at least one name, got 5"),
        (lambda model: explain(model, TEST[0][0], TRAIN, VAL, detectors=[None], like=quiet()), "name, got .None"),
        (lambda model: recommend(model, TRAIN, Subset(VAL, [0]), like=quiet()), "recommend needs two, of which one"),
        (lambda model: recommend(model, TRAIN, VAL, like=3), "like: must be an OODDetector"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(call: Callable[[torch.nn.Module], object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        call(served.network())


# -------------------------------------------------------------------- recommend


def test_a_ranking_with_its_reasons() -> None:
    found = recommend(served.network(), TRAIN, VAL, like=quiet(seed=5))
    assert {each.name for each in found.ranking} | set(found.left_out) == set(CANDIDATES)
    means = [round(each.mean, 3) for each in found.ranking]
    assert means == sorted(means, reverse=True)
    assert all(set(each.by_kind) == set(KINDS) for each in found.ranking)
    assert sum(part.startswith(HELD_OUT) for part in found.ranking[0].parts) == CLASSES
    assert found.rows == {"train": 120, "validation": 40}
    text = str(found)
    assert f"recommended: {found.best}" in text
    assert "networks whose OOD sets are known" in text
    assert "that fixed choice" in text


def test_what_chose_does_not_calibrate() -> None:
    """The recommended detector is calibrated on the other half, of the same cut."""
    model = served.network()
    found = recommend(model, TRAIN, VAL, ["msp", "nci"], like=quiet(seed=5, tpr=0.9))
    fitted = found.detector.fit(model, TRAIN, VAL).fitted
    assert fitted.detector.name == found.best
    assert fitted.rows == {"train": 120 * (found.best == "nci"), "validation_fit": 40, "calibration": 40}
    assert fitted.settings == {"tpr": 0.9, "by_class": False, "seed": 5}
    images = VAL.tensors[0].clone()
    again = recommend(
        model, TRAIN, torch.utils.data.TensorDataset(images, VAL.tensors[1]), ["msp", "nci"], like=quiet(seed=5)
    )
    assert [each.by_kind for each in again.ranking] == [each.by_kind for each in found.ranking]


def test_a_detector_that_separates_nothing_is_last() -> None:
    found = recommend(served.network(), TRAIN, VAL, ["feature_norm", "mds_pp", "nci_plus"], like=quiet())
    assert found.ranking[-1].name == "feature_norm"
    assert found.record is None
    assert "not measured for these candidates" in str(found)
    assert found.ranking[-1].by_kind[MIDPOINTS] < 60


def test_two_classes_have_no_class_to_hold_out() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    train, val = rows(80, 1), rows(60, 2)
    two = [torch.utils.data.TensorDataset(each.tensors[0], each.tensors[1] % 2) for each in (train, val)]
    found = recommend(model, *two, ["msp", "nci", "mds_pp"], like=quiet())
    assert not any(part.startswith(HELD_OUT) for part in found.ranking[0].parts)


def test_detectors_that_cannot_be_used_are_left_out_with_the_reason() -> None:
    found = recommend(served.network(), rows(40, 1), VAL, ["knn", "msp"], like=quiet())
    assert "K must be at most" in found.left_out["knn"]
    assert "left out: knn" in str(found)
    with pytest.raises(PluginError, match="no detector can be used"):
        recommend(served.network(), rows(40, 1), VAL, ["knn"], like=quiet())
    few = recommend(served.network(), Subset(TRAIN, [0]), VAL, ["nci_plus", "msp"], like=quiet())
    assert few.left_out["nci_plus"] == "detector 'nci_plus': the training set holds no sample; pass one that has some"
    with pytest.raises(PluginError, match="did you mean"):
        recommend(served.network(), TRAIN, VAL, ["mspp"], like=quiet())


def test_what_a_detector_of_ones_own_raises_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises(MSP):
        """Raises."""

        name = "raises"

        def _score(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            raise ValueError("what it says")

    monkeypatch.setattr(registry, "_DETECTORS", {**registry._DETECTORS, "raises": Raises})
    found = recommend(served.network(), TRAIN, VAL, ["msp", "raises"], like=quiet())
    assert found.left_out == {"raises": "detector 'raises': ValueError: what it says; mend it, or name another"}


def test_a_tie_is_said_and_broken_by_the_record() -> None:
    """One detector under two names, of which the record puts the second first."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 5
    features = 3 * torch.eye(5)[labels] + torch.randn(200, 5, generator=generator)
    head = LinearHead(torch.eye(5) - 0.2, torch.zeros(5))
    split = FeatureSplit.of(features, head.logits(features), labels)
    candidates = {name: load_detector("mds_pp").detector for name in ("nc4", "mds_pp")}
    ranking, _ = rank(candidates, split, split, head, 0)
    assert [each.name for each in ranking] == ["mds_pp", "nc4"]
    collapse = measure(statistics_of(split, 5), head, "classes")
    found = Recommendation(ranking, {}, collapse, quiet(), {"validation": 200, "train": 200})
    assert found.tied == ["nc4"]
    assert "tied with it: nc4; the pseudo-OOD samples do not tell these apart" in str(found)
    assert "ahead of" not in str(found)


def test_the_track_record_is_counted_right() -> None:
    """Three networks: the rule is right twice; leaving one out, the fixed choice is b, b and (of equals) a."""
    numbers = {
        "one": {"a": (90.0, 1.0), "b": (95.0, 2.0)},
        "two": {"a": (95.0, 2.0), "b": (90.0, 1.0)},
        "three": {"a": (80.0, 2.0), "b": (95.0, 1.0)},
    }
    measured = [
        MeasuredRow(network, name, truth, rule)
        for network, there in numbers.items()
        for name, (truth, rule) in there.items()
    ]
    record = track_record(["a", "b"], measured)
    assert (record.networks, record.right, record.loss) == (3, 2, pytest.approx(5.0))
    assert (record.fixed_right, record.fixed_loss) == (1, pytest.approx((0 + 5 + 15) / 3))
    assert record.fixed_name == "b"
    assert "the ranking is better than that fixed choice" in str(record)
    worse = track_record(["a", "b"], [replace(row, rule=-row.rule) for row in measured])
    assert worse.right == 1
    assert worse.loss == pytest.approx((5 + 5 + 0) / 3)


def test_what_was_measured_covers_the_candidates() -> None:
    measured = measured_rows()
    networks = {row.network for row in measured}
    assert len(networks) >= 6
    assert {row.detector for row in measured} == set(CANDIDATES)
    assert all(0 <= row.truth <= 100 and 0 <= row.rule <= 100 for row in measured)
    record = track_record(CANDIDATES)
    assert record.networks == len(networks)
    assert 0 <= record.right <= record.networks


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, {"train": 80, "val": 80})
    (tmp_path / "net.py").write_text(served.NETWORK, encoding="utf-8")
    torch.save(served.network().state_dict(), tmp_path / "net.pt")
    flags = ["--net", f"{tmp_path / 'net.py'}:make", "--ckpt-path", str(tmp_path / "net.pt"), "--device", "cpu"]
    flags += ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    assert main(["recommend", str(tmp_path), *flags, "--detectors", "msp", "nci_plus", "mds_pp"]) == 0
    text = capsys.readouterr().out
    assert "recommended: " in text
    output = ["--output", str(tmp_path / "d.safetensors"), "--detectors", "recommended"]
    assert main(["fit", str(tmp_path), *flags, *output]) == 0
    fitted = OODDetector.load(tmp_path / "d.safetensors", served.network()).fitted
    assert fitted.rows["validation_fit"] == fitted.rows["calibration"] == 40
