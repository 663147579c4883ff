"""The scripts of the pre-registered test: its rule, its draws, and covariate-shifted images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts" / "study"))

import covariate_shift
import second_form
from PIL import Image
from stored import Network

from nci_plugin.benchmarks.corruptions import CORRUPTIONS
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"a": (0.4, 1.0), "b": (-0.4, 0.2)}, "nci_gated is not recommended: mean +0.00 / +0.60 over 2 networks"),
        ({"a": (0.4, 1.0), "b": (-0.3, 0.2)}, "nci_gated is recommended: mean +0.05 / +0.60 over 2 networks"),
        (
            {"a": (3.0, 3.0), "b": (-0.6, 0.2)},
            "nci_gated is not recommended: mean +1.20 / +1.60 over 2 networks; below the margin on b -0.60 / +0.20",
        ),
    ],
)
def test_the_rule(gains, expected):
    assert second_form.verdict({name: np.array(pair) for name, pair in gains.items()}) == expected


def test_draws_have_so_many_images_of_each_class_and_differ():
    labels = torch.arange(3).repeat_interleave(20)
    head = LinearHead(torch.eye(3, 4), torch.zeros(3))
    features = torch.rand(60, 4)
    network = Network("n", "", {"id/train": FeatureSplit.of(features, head.logits(features), labels)}, head)
    draws = [second_form.thinned(network, 5, seed).splits["id/train"] for seed in (0, 0, 1)]
    assert all(torch.bincount(draw.labels).tolist() == [5, 5, 5] for draw in draws)
    assert torch.equal(draws[0].features, draws[1].features)
    assert not torch.equal(draws[0].features, draws[2].features)


def test_a_case_is_a_directory_and_images():
    case = second_form.Case.parse("results/cifar10_vit@10")
    assert (case.name, case.images) == ("cifar10_vit@10", 10)
    assert second_form.Case.parse("results/cifar10_vit").images is None


def test_full_spectrum_needs_covariate_shifted_samples():
    head = LinearHead(torch.eye(3, 4), torch.zeros(3))
    features = torch.rand(6, 4)
    network = Network(
        "n", "", {"id/train": FeatureSplit.of(features, head.logits(features), torch.arange(6) % 3)}, head
    )
    with pytest.raises(SystemExit, match="no covariate-shifted samples"):
        second_form.aurocs(network, "fsood")


def test_covariate_shifted_copies_keep_labels_and_repeat(tmp_path, capsys):
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        image = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    for name in ("one", "two"):
        covariate_shift.main(
            [*(str(tmp_path / "list.txt"), "--images", str(tmp_path / "images"), "--output", str(tmp_path / name))]
            + ["--number", "2"]
        )
    lines = (tmp_path / "one" / covariate_shift.LIST).read_text().splitlines()
    drawn = {line.split()[1] for line in lines}
    assert len(lines) == 2 * len(CORRUPTIONS)
    assert len(drawn) == 2
    assert "wrote 8 images" in capsys.readouterr().out
    for line in lines:
        path, label = line.split()
        copy = np.asarray(Image.open(tmp_path / "one" / path))
        assert not np.array_equal(copy, np.asarray(Image.open(tmp_path / "images" / f"{label}.png")))
        assert np.array_equal(copy, np.asarray(Image.open(tmp_path / "two" / path)))


def test_more_copies_than_lines_are_refused(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("0.png 0\n")
    with pytest.raises(SystemExit) as error:
        covariate_shift.main(
            [str(tmp_path / "list.txt"), "--images", str(tmp_path), "--output", str(tmp_path / "o"), "--number", "2"]
        )
    assert error.value.code == 2
    assert "must be 1 to 1" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
