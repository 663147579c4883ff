"""``nci-ood diagnose`` and ``nci-ood explain`` on a tiny benchmark of real image files, and what they are made of."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from command import command, diagnose
from PIL import Image
from tiny import COUNTS, Tiny, draw_nothing, tree

from nci_plugin import built_in
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.collapse import CollapseMetrics, NearestCentre, progress
from nci_plugin.collapse.geometry import centre_distances
from nci_plugin.config import load_benchmark
from nci_plugin.detectors.neural_collapse import NC2
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.diagnosis.explanation import MIN_CHECKPOINTS, PROPERTIES, correlation, explain
from nci_plugin.diagnosis.geometry import Plane, distance_from_frame
from nci_plugin.diagnosis.layers import mean_over_networks, nearest_centre_head
from nci_plugin.diagnosis.network import NOT_STORED, SECOND_PASS, STORED
from nci_plugin.diagnosis.record import PROGRESSIVE, DiagnosisRecord, SplitRecord, StageRecord, progressive
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.cut import PROBE_ROWS, Cut
from nci_plugin.networks.factory import build_network
from nci_plugin.networks.stages import PENULTIMATE, StageFeatures, find_stages, pool
from nci_plugin.report.terminal import plain

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = ["s0", "s1"]
SCORES = {f"scores_{group}" for group in ("csid", "near", "far")}
FIGURES = {"variances", "duality", "cosines", "distances", "roc", "plane", "layers", *SCORES}


def explain_arguments(tiny: Tiny, image: Path, *flags: str, **options: Any) -> list[str]:
    _, benchmark, _, _, *rest = tiny.eval(**options)
    return ["explain", str(image), benchmark, *flags, *rest]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for the disk and no figure, where those are not the subject."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    monkeypatch.setattr("nci_plugin.report.diagnosis_figures.draw", lambda results: [])


@pytest.fixture
def tiny(tmp_path: Path, quick: None) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, tuple[int, str, str]]:
    """Two networks, diagnosed with layers; PNG alone, since SVG is twice the time."""
    tiny = Tiny(tmp_path_factory.mktemp("tiny"), seeds=len(SEEDS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("nci_plugin.report.figures.SUFFIXES", (".png",))
        answer = command(diagnose(tiny, "--layers", ckpt_path=tiny.checkpoints))
    return tiny, answer


def record(tiny: Tiny, name: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    path = tiny.output / "diagnosis" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# -------------------------------------------------------------------- diagnose


def test_run_prints_every_part_and_says_where_nc4_comes_from(run):
    tiny, (code, out, err) = run
    assert (code, err) == (0, "")
    for text in (
        "neural collapse on 12 training samples: 3 of 3 classes",
        "OrthoDev",
        "penultimate",
        "s1: class by class on 12 training samples",
        "cos(w_k, mu_k), not NC3",
        "sentence by rule",
    ):
        assert text in out
    assert NOT_STORED in out
    assert f"needs at least {MIN_CHECKPOINTS} checkpoints, here are 2" in out
    for line in out.splitlines():
        assert "nan" not in line.lower().replace("explanation", "")


def test_records_hold_numbers_and_no_nan(run):
    tiny, _ = run
    for seed in SEEDS:
        found = record(tiny, seed)
        assert found["seed"] == seed
        assert found["collapse"]["num_samples"] == COUNTS["train"]
        assert found["collapse_sample_mean"]["mean_convention"] == "samples"
        assert set(found["splits"]) == {"id/val", "id/test", "csid/csid", "near/near", "near/near2", "far/far"}
        assert set(found["auroc"]) == set(DETECTORS) - set(found["not_scored"])
        assert found["auroc"]["nc1"]["near"] == pytest.approx(
            (found["auroc"]["nc1"]["near/near"] + found["auroc"]["nc1"]["near/near2"]) / 2
        )
        assert [stage["stage"] for stage in found["layers"]] == ["conv", PENULTIMATE]
        assert [stage["num_features"] for stage in found["layers"]] == [4, 16]
        assert "needs three of them with a value above 0, got 2 of 2" in found["progressive"]["nc1_quotient"]["note"]
    assert record(tiny, "explanation")["checkpoints"] == 2


def test_collapse_of_the_last_stage_is_that_of_the_network(run):
    tiny, _ = run
    found = record(tiny, "s0")
    for field in ("nc1_quotient", "nc1_pinv", "nc2_etf_error", "mean_norm_l2"):
        assert found["layers"][-1][field] == pytest.approx(found["collapse"][field], rel=1e-9)
    assert found["layers"][-1]["nearest_centre_accuracy"] == found["nc4"]["id/test"]["accuracy"]


def test_scores_stand_beside_those_of_eval(run):
    tiny, _ = run
    for detector in record(tiny, "s0")["auroc"]:
        assert (tiny.output / "s0" / "scores" / f"{detector}.npz").is_file()
        assert (tiny.output / "ood" / f"{detector}.csv").is_file()


def test_figures_are_drawn_and_drawn_again_the_same_from_files_alone(run, monkeypatch):
    tiny, (_, out, _) = run
    before = tree(tiny.output)
    drawn = {path for path in before if path.endswith(".png") and path.startswith("diagnosis/")}
    assert drawn == {f"diagnosis/{seed}/{name}.png" for seed in SEEDS for name in FIGURES} | set(
        ["diagnosis/explanation.png"] if "explanation" in out.splitlines()[-1] else []
    )
    for path in drawn:
        with Image.open(tiny.output / path) as image:
            assert min(image.size) > 300
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 8  # something is on it
        (tiny.output / path).unlink()
    monkeypatch.setattr("nci_plugin.report.figures.SUFFIXES", (".png",))
    monkeypatch.setattr("nci_plugin.cli.diagnose.extract", None)
    tiny.passes()
    code, again, err = command(["diagnose", str(tiny.output)])
    assert (code, err, tiny.passes()) == (0, "", [])
    assert tree(tiny.output) == before
    assert out.endswith(again)
    code, _, err = command(["diagnose", str(tiny.output), "--layers"])  # nothing is measured there
    assert (code, err.count("\n")) == (2, 1)
    assert "printed and drawn again without any option" in err


def test_vector_figures_are_the_same_each_time(tmp_path):
    from nci_plugin.report.diagnosis_figures import explanation_figure
    from nci_plugin.report.figures import save

    explanation = explain(records_of([0.1, 0.2], [90.0, 80.0]))
    for name in ("first", "second"):
        figure = explanation_figure(explanation, "tiny")
        assert figure is not None
        save(figure, tmp_path / f"{name}.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


@pytest.mark.parametrize(
    ("flags", "detectors", "source"), [(["--second-pass"], ["msp"], SECOND_PASS), ([], ["knn"], STORED)]
)
def test_nc4_on_train_reads_the_stored_features_or_passes_the_images_again(tiny, flags, detectors, source):
    if detectors == ["knn"]:
        knn = tiny.root / "knn3.yml"
        knn.write_text("postprocessor: {name: knn, postprocessor_args: {K: 3}}\n")
        detectors = [str(knn)]
    assert main(tiny.eval(*detectors)) == 0
    tiny.passes()
    assert command(diagnose(tiny, *flags))[0] == 0
    found = record(tiny, "network")
    assert found["nc4"]["train_from"] == source
    passes = sum(tiny.passes())
    assert (passes >= 2 * COUNTS["train"]) == bool(flags)  # statistics and NC4, or neither
    network = tiny.loaded().eval()
    images = [tiny_image(tiny, "train", index) for index in range(COUNTS["train"])]
    with torch.no_grad():
        features, logits = Cut.of(network, torch.stack(images))(torch.stack(images))
    labels = torch.arange(len(images)) % 3
    means = torch.stack([features[labels == k].double().mean(0) for k in range(3)])
    nearest = centre_distances(features, means).argmin(1)
    assert found["nc4"]["train"]["agreement"] == float((nearest == logits.argmax(1)).double().mean())
    assert found["nc4"]["train"]["accuracy"] == float((nearest == labels).double().mean())


def tiny_image(tiny: Tiny, split: str, index: int) -> torch.Tensor:
    pixels = np.array(Image.open(tiny.image(split, index)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flags": ["--bad-option"]}, None),
        ({"net": "nothing"}, "network 'nothing'"),
        ({"ckpt_path": "nowhere"}, "nowhere"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny, change, expected):
    flags = change.pop("flags", [])
    if expected is None:
        with pytest.raises(SystemExit) as error:
            command(diagnose(tiny, *flags))
        assert error.value.code == 2
        return
    code, _, err = command(diagnose(tiny, **change))
    assert code == 2
    assert err.count("\n") == 1
    assert expected in err
    assert not tiny.output.exists()


def test_a_benchmark_without_training_images_is_refused(tiny):
    del tiny.config["benchmark"]["id"]["train"]
    tiny.save_config()
    code, _, err = command(diagnose(tiny))
    assert (code, err.count("\n")) == (2, 1)
    assert "id/train" in err


def test_a_damaged_diagnosis_is_refused(tiny):
    assert command(diagnose(tiny))[0] == 0
    path = tiny.output / "diagnosis" / "network.json"
    content = path.read_text()
    for text in (content[:50], "[]", content.replace('"version": 2', '"version": 1')):
        path.write_text(text)
        code, _, err = command(["diagnose", str(tiny.output)])
        assert (code, err.count("\n")) == (2, 1)
        assert str(path) in err


def test_more_classes_than_features_leave_nc2_out_and_say_so(tmp_path, quick):
    """A narrow network: three classes in two features, whose means span the whole space."""
    tiny = Tiny(tmp_path)
    tiny.net.write_text(
        tiny.net.read_text(encoding="utf-8")
        .replace("AdaptiveAvgPool2d(2)", "AdaptiveAvgPool2d(1)")
        .replace("4 * width", "width")
        .replace("width=4", "width=2"),
        encoding="utf-8",
    )
    tiny.save_checkpoint(tiny.checkpoint, seed=0)
    code, out, err = command(diagnose(tiny, "--layers"))
    assert (code, err) == (0, "")
    found = record(tiny, "network")
    assert "span all 2 features" in found["not_scored"]["nc2"]
    assert "note: nc2: detector 'nc2'" in out
    assert "AUROC of nc2: near unknown" in out


# -------------------------------------------------------------------- stages


def test_a_stage_that_is_the_penultimate_feature_is_no_step():
    def stages(*values):
        return [StageRecord(str(place), dict.fromkeys(PROGRESSIVE, each), {}) for place, each in enumerate(values)]

    assert progressive(stages(4.0, 2.0, 1.0, 1.0 + 1e-7))["nc1_quotient"] == progress([4.0, 2.0, 1.0])
    assert progressive(stages(4.0, 2.0, 1.0, 0.9))["nc1_quotient"] == progress([4.0, 2.0, 1.0, 0.9])
    assert "needs three" in progressive(stages(4.0, None, 1.0))["nc1_pinv"]


TRANSFORMER = """
import torchvision


def make(num_classes=3):
    return torchvision.models.VisionTransformer(8, 2, 4, 2, 8, 64, num_classes=num_classes)
"""


def test_a_transformer_is_followed_block_by_block_in_the_same_pass(tmp_path, quick):
    """One pass over every image; progressive NC1 and directions of its blocks are in the file."""
    tiny = Tiny(tmp_path)
    tiny.net.write_text(TRANSFORMER, encoding="utf-8")
    tiny.save_checkpoint(tiny.checkpoint, seed=0)
    seen = []
    forward = torchvision.models.VisionTransformer.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torchvision.models.VisionTransformer, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
        )
        code, out, err = command(diagnose(tiny, "--layers"))
    assert (code, err) == (0, "")
    found = record(tiny, "network")
    assert [stage["stage"] for stage in found["layers"]] == [
        *(f"encoder.layers.encoder_layer_{number}" for number in range(4)), PENULTIMATE
    ]  # fmt: skip
    assert all(-1 <= stage["within_cosine"] <= 1 for stage in found["layers"])
    expected = progress([stage["nc1_quotient"] for stage in found["layers"]])
    assert found["progressive"]["nc1_quotient"] == dataclasses.asdict(expected)
    assert plain(str(expected)) in " ".join(out.split())  # R^2 where there is no terminal; the line may be folded
    # Every image once, but for the few on which the head is sought.
    assert sum(COUNTS.values()) <= sum(seen) <= sum(COUNTS.values()) + 4 * PROBE_ROWS


@pytest.mark.parametrize(
    ("name", "head", "first", "last"),
    [
        ("resnet18", "fc", "layer1", "layer4"),
        ("vit_b_16", "heads.head", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"),
        ("swin_t", "head", "features.0", "features.7"),
        ("convnext_tiny", "classifier.2", "features.0", "features.7"),
    ],
)
def test_stages_of_known_networks(name, head, first, last):
    with torch.device("meta"):
        network = build_network(f"torchvision:{name}", 10, {})
    stages = find_stages(network, head)
    assert (stages[0], stages[-1]) == (first, last)
    assert not any(head == stage or head.startswith(f"{stage}.") for stage in stages)


def test_stage_features_are_pooled_maps_and_the_penultimate_feature():
    network = build_network("nci_plugin.networks.resnet:ResNet18_32x32", 6, {"width": 4}).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features, _, found = StageFeatures(network, Cut.of(network, images))(images)
        _, maps = network(images, return_feature_list=True)
    assert list(found) == ["layer1", "layer2", "layer3", "layer4"]
    torch.testing.assert_close(found["layer2"], maps[2].mean(dim=(2, 3)))
    torch.testing.assert_close(found["layer4"], features)
    assert not any(module._forward_hooks for module in network.modules())


def test_pooling_knows_maps_tokens_and_what_is_neither():
    maps = torch.randn(2, 5, 7, 7)
    torch.testing.assert_close(pool(maps, 2), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(pool(maps.permute(0, 2, 3, 1), 2), maps.mean(dim=(2, 3)))  # channels last
    tokens = torch.randn(2, 9, 5)
    torch.testing.assert_close(pool((tokens, None), 2), tokens.mean(dim=1))
    assert pool(torch.randn(3, 5), 2) is None
    assert pool(torch.zeros(2, 5, dtype=torch.long), 2) is None
    assert pool({"a": maps}, 2) is None


def test_nearest_centre_head_decides_by_the_nearest_mean():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) + 100
    labels = torch.randint(3, (200,), generator=generator)  # class 3 of 4 never comes
    statistics = ClassStatistics(4, 6).update(features, labels)
    head = nearest_centre_head(statistics)
    nearest = centre_distances(features, statistics.means[:3]).argmin(dim=1)
    assert torch.equal(head.logits(features.double()).argmax(dim=1), nearest)


def test_means_over_networks_leave_out_what_one_lacks():
    stages = [
        [StageRecord("a", {"nc1": 1.0, "nc2": None}, {"near": {"x": 50.0, "y": 1.0}})],
        [StageRecord("a", {"nc1": 3.0, "nc2": 1.0}, {"near": {"x": 70.0}})],
    ]
    assert mean_over_networks(stages) == [StageRecord("a", {"nc1": 2.0, "nc2": None}, {"near": {"x": 60.0}})]


# -------------------------------------------------------------------- frame and plane


def test_distances_from_a_frame_are_those_of_the_definition():
    means = torch.eye(4)[:3].double() * 2
    statistics = ClassStatistics(3, 4).update(means.repeat_interleave(2, 0), torch.arange(3).repeat_interleave(2))
    mean = means.mean(0)

    def frame(*rows: torch.Tensor) -> dict[str, float]:
        features = torch.stack(rows)
        return distance_from_frame(
            FeatureSplit.of(features, torch.zeros(len(rows), 3), torch.zeros(len(rows))), statistics
        )

    collapsed = {"span_share": 1, "vertex_angle": 0, "etf_angle": 0, "vertex_distance": 0}
    assert frame(means[1]) == pytest.approx(collapsed, abs=1e-5)
    away = frame(mean + torch.tensor([0, 0, 0, 3.0]).double())  # orthogonal to the span
    radius = float((means[0] - mean).norm())
    assert away["span_share"] == pytest.approx(0, abs=1e-12)
    assert away["vertex_angle"] == pytest.approx(90)
    assert away["etf_angle"] == pytest.approx(90)
    assert away["vertex_distance"] == pytest.approx(math.hypot(3, radius) / radius)
    both = frame(means[1], mean + torch.tensor([0, 0, 0, 3.0]).double())
    assert both["span_share"] == pytest.approx(0.5)


def test_plane_keeps_distances_of_three_means():
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(30, 8, generator=generator), torch.arange(30) % 3
    statistics = ClassStatistics(3, 8).update(features, labels)
    plane = Plane(statistics)
    coordinates = torch.from_numpy(plane.coordinates(statistics.means))
    torch.testing.assert_close(torch.pdist(coordinates), torch.pdist(statistics.means))  # three points lie in a plane
    assert sum(plane.explained) == pytest.approx(1)


# -------------------------------------------------------------------- sentences


def records_of(metric: list[float], auroc: list[float], nc4: bool = True) -> list[DiagnosisRecord]:
    """Records with one near set, where every metric is ``metric`` and AUROC of nc1 ``auroc``, of the others 50."""
    found = []
    for value, score in zip(metric, auroc):
        values = dict.fromkeys(("nc1_quotient", "nc2_etf_error", "nc3_self_duality"), value)
        collapse = CollapseMetrics(3, 4, 12, "classes", 1e-12, True, (0, 1, 2), (4, 4, 4), 2, (), values, {})
        split = SplitRecord(9, {"ortho_dev": value}, None, {})
        aurocs = {each.score: {"near": score if each.score == "nc1" else 50.0} for each in PROPERTIES}
        train = NearestCentre(value, value) if nc4 else None
        splits = {"near/a": split, "near/b": split}
        found.append(DiagnosisRecord("made", "", collapse, collapse, {"train": train}, STORED, {}, splits, aurocs))
    return found


def test_sentences_of_one_checkpoint_claim_nothing_of_spread():
    sentences = explain(records_of([0.25], [90.0])).sentences
    assert sentences[0] == "NC1: Tr(Sigma_W) / Tr(Sigma_B) on train is 0.25 (0 at collapse); AUROC of nc1: near 90.00."
    assert "one checkpoint says nothing of the spread" in sentences[5]
    assert sentences[6].startswith(
        f"Rank correlation of metrics and AUROC needs at least {MIN_CHECKPOINTS} checkpoints"
    )
    assert len(sentences) == 7  # there is no far set


@pytest.mark.parametrize(
    ("auroc", "verdict"),
    [([90.0, 51.0], "ahead on all 2 checkpoints"), ([90.0, 49.0], "ahead on 1 of 2 checkpoints only")],
)
def test_ahead_is_said_only_of_every_checkpoint(auroc, verdict):
    sentence = explain(records_of([0.1, 0.3], auroc)).sentences[5]
    assert sentence.endswith(f"; {verdict}.")
    assert f"nc1 ({np.mean(auroc):.2f}) has the highest mean AUROC, nc2 (50.00) the second" in sentence


def test_spread_is_the_population_deviation_and_what_is_missing_is_unknown():
    sentences = explain(records_of([0.1, 0.3], [80.0, 90.0], nc4=False)).sentences
    assert "on train is 0.2 ± 0.1 " in sentences[0]
    assert "near 85.00 ± 5.00" in sentences[0]
    assert sentences[3].startswith("NC4: nearest-class-centre agreement on train is unknown")


def test_correlation_needs_enough_checkpoints_and_two_values():
    assert MIN_CHECKPOINTS == 6  # 2 / 5! = 0.017 and 2 / 6! = 0.0028, against 0.05 / 10
    rising = [float(value) for value in range(MIN_CHECKPOINTS)]
    found = correlation(rising, [-value for value in rising])
    assert found == pytest.approx({"rho": -1.0, "p": 2 / math.factorial(MIN_CHECKPOINTS)})
    assert correlation(rising[1:], rising[1:]) is None
    assert correlation(rising, [1.0] * MIN_CHECKPOINTS) is None
    assert correlation([*rising[:-1], None], rising) is None


def test_correlation_sentences_name_the_level():
    metric = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    explanation = explain(records_of(metric, [100 * (1 - value) for value in metric]))
    sentences = [text for text in explanation.sentences if "rank correlation" in text]
    assert len(sentences) == 1  # the other scores are constant
    assert "rank correlation -1.00 over 6 checkpoints" in sentences[0]
    assert "different from 0 at 0.05 / 1" in sentences[0]
    shuffled = explain(records_of(metric, [70.0, 60.0, 90.0, 50.0, 80.0, 65.0]))
    assert "not different from 0" in next(text for text in shuffled.sentences if "rank correlation" in text)


# -------------------------------------------------------------------- explain


def test_explain_an_image(tiny):
    image = tiny.image("train", 1)
    code, out, err = command(explain_arguments(tiny, image))
    assert (code, err) == (0, "")
    network = tiny.loaded().eval()
    with torch.no_grad():
        logits = network(tiny_image(tiny, "train", 1)[None])
    assert f"predicted class: {int(logits.argmax())} (softmax {float(logits.softmax(1).max()):.4f})" in out
    for detector in ("nc1", "nc4", "pscore", "feature_norm"):
        assert f"\n{detector} " in out
    assert f"keeps 95 % of {COUNTS['val']} ID validation samples" in out


def test_explain_leaves_out_what_cannot_be_computed(tiny, monkeypatch):
    """As eval does; where nothing is left, the first reason is the error."""
    monkeypatch.setattr(NC2, "fit", refuse)
    code, out, err = command(explain_arguments(tiny, tiny.image("train", 1)))
    assert (code, err) == (0, "")
    assert "\nnc2: left out: no room for a frame\n" in out
    assert f" of {len(DETECTORS) - 1} scores call it ID" in out
    code, out, err = command(explain_arguments(tiny, tiny.image("train", 1), "--detectors", "nc2"))
    assert (code, err.count("\n")) == (2, 1)
    assert "no room for a frame" in err


def refuse(self, *arguments):
    raise PluginError("no room for a frame")


def test_explain_values_percentiles_and_verdict(tiny):
    """By definition, for the feature norm: over the six validation images."""
    network = tiny.loaded().eval()

    def norm(split: str, index: int) -> float:
        image = tiny_image(tiny, split, index)[None]
        with torch.no_grad():
            return float(Cut.of(network, image)(image)[0].abs().sum())

    validation = sorted(norm("val", index) for index in range(COUNTS["val"]))
    for split, index in (("far", 0), ("val", 2), ("test", 3)):
        value = norm(split, index)
        code, out, _ = command(
            explain_arguments(tiny, tiny.image(split, index), "--detectors", "feature_norm", "--tpr", "0.8")
        )
        assert code == 0
        line = next(line for line in out.splitlines() if line.startswith("feature_norm"))
        row = line.replace("  Feature norm", "").split()
        assert float(row[1]) == pytest.approx(value, rel=1e-3)
        assert float(row[2]) == pytest.approx(100 * np.mean([v <= value * (1 + 1e-6) for v in validation]), abs=0.1)
        assert float(row[3]) == pytest.approx(validation[1], rel=1e-3)  # keeps five of six, at least 80 %
        assert row[4] == ("ID" if value >= validation[1] * (1 - 1e-6) else "OOD")


def test_explain_reads_stored_statistics(tiny):
    assert command(diagnose(tiny))[0] == 0
    tiny.passes()
    assert command(explain_arguments(tiny, tiny.image("far", 0)))[0] == 0
    assert tiny.passes() == [4, 4, 4, 1]  # the first stored batch, for its head and to be compared, and the image


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("nothing.png", [], "there is no such file"),
        ("text.png", [], "cannot be decoded"),
        ("train", ["--tpr", "0"], "--tpr"),
        ("train", ["--tpr", "95"], "--tpr: must be a share between 0 and 1, at most 1, got 95; 0.95 keeps 95 %"),
        ("train", ["--tpr", "nan"], "--tpr"),
        ("train", ["--detectors", "nothing"], "unknown detector"),
    ],
)
def test_bad_input_of_explain_is_one_line_and_exit_code_2(tiny, name, flags, expected):
    (tiny.root / "text.png").write_text("no image")
    image = tiny.image("train", 0) if name == "train" else tiny.root / name
    code, _, err = command(explain_arguments(tiny, image, *flags))
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err


def test_explain_needs_validation_images(tiny):
    del tiny.config["benchmark"]["id"]["val"]
    tiny.save_config()
    code, _, err = command(explain_arguments(tiny, tiny.image("train", 0)))
    assert (code, err.count("\n")) == (2, 1)
    assert "id/val" in err


# -------------------------------------------------------------------- train


def test_train_makes_the_checkpoints_that_are_missing(tmp_path, monkeypatch):
    """On images that are not there: the training itself is the subject of test_training.py."""
    calls = []

    def train_checkpoint(benchmark, directory, seed, device, recipe, save_every):
        calls.append((benchmark.name, directory, seed, recipe.optimizer, recipe.augment, recipe.weight_decay))
        return {"accuracy": 100.0, "loss": 0.0}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.benchmarks.digits.write_digits", lambda root: False)
    monkeypatch.setattr("nci_plugin.built_in.train_checkpoint", train_checkpoint)
    name = "resnet18_32x32_w16_base_e12_lr0.03_default"
    overfit, long_tailed = Path(f"results/digits_{name}_overfit"), Path(f"results/digits_lt_{name}")
    (overfit / "s0").mkdir(parents=True)
    (overfit / "s0" / "best.ckpt").touch()
    code, out, _ = command(["train", "digits", "--regime", "overfit", "--device", "cpu"])
    assert code == 0
    assert calls == [("digits", overfit, seed, "adam", False, 0.0) for seed in ("s1", "s2")]
    assert f"next: nci-ood diagnose digits --ckpt-path {overfit}" in out
    flags = ["--regime", "overfit", "--device", "cpu", "--output", "of mine", "--save-every", "1"]
    assert "next: nci-ood dynamics 'of mine'\n" in command(["train", "digits", *flags])[1]
    del calls[2:]
    calls.clear()
    assert command(["train", "digits", "--regime", "long_tailed", "--device", "cpu"])[0] == 0
    assert [call[:3] for call in calls] == [("digits_lt", long_tailed, seed) for seed in ("s0", "s1", "s2")]
    assert all(call[3:] == ("sgd", True, 5e-4) for call in calls)


def test_checkpoints_of_another_training_are_not_taken_for_this_one(tmp_path, monkeypatch):
    """They were left as they were, and named as if they had been trained so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.benchmarks.digits.write_digits", lambda root: False)
    built_in._describe(load_benchmark("digits"), tmp_path / "nets", built_in.Recipe(epochs=3))
    (tmp_path / "nets" / "s0").mkdir()
    (tmp_path / "nets" / "s0" / "best.ckpt").touch()
    arguments = ["train", "digits", "--seeds", "0", "--output", "nets", "--device", "cpu"]
    assert command([*arguments, "--epochs", "3"])[0] == 0
    code, _, err = command(arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds another training" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["digits", "--regime", "underfit"], "unknown regime 'underfit'"), (["cifar10"], "is not built in")],
)
def test_train_on_bad_input(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(["train", *arguments, "--device", "cpu"])
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err
    assert list(tmp_path.iterdir()) == []
