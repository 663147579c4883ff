"""The postprocessors' loaders pass the gate of labels, as every other path does."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from nci_plugin import progress
from nci_plugin.adapters.openood.postprocessor import make_postprocessor
from nci_plugin.checks import PluginError

CLASSES = 3


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, CLASSES)).eval()


def batches(labels: Any, images_key: str = "data", labels_key: str = "label") -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(30, 3, 2, 2, generator=generator)
    return [{images_key: images[i : i + 10], labels_key: labels[i : i + 10]} for i in (0, 10, 20)]


LABELS = torch.arange(30) % CLASSES


@pytest.mark.parametrize("name", ["nci", "mds_pp", "nci_plus"])
def test_labels_of_any_form_give_the_same_scores(network, name):
    images = batches(LABELS)[0]["data"]
    loaders = [batches(LABELS), batches(LABELS[:, None]), batches(LABELS.numpy()), batches(LABELS.tolist())]
    loaders.append(batches(LABELS.tolist(), "pixel_values", "labels"))
    scores = []
    for loader in loaders:
        postprocessor = make_postprocessor(name)
        postprocessor.setup(network, {"train": loader, "val": loader}, {})
        scores.append(postprocessor.postprocess(network, images)[1])
    assert all(torch.equal(scores[0], other) for other in scores[1:])


@pytest.mark.parametrize(
    "labels",
    [torch.eye(3)[LABELS], LABELS + 0.5, LABELS + 1, LABELS - 1, ["cat"] * 30],
    ids=["one-hot", "fractions", "large", "negative", "texts"],
)
def test_other_training_labels_are_refused(network, labels):
    with pytest.raises(PluginError, match="^training loader: label"):
        make_postprocessor("mds_pp").setup(network, {"train": batches(labels)}, {})


def test_the_pass_of_a_setup_says_how_far_it_is(network, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.01)

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.03)
                yield batch

    loader = Slow(batches(LABELS))
    make_postprocessor("mds_pp").setup(network, {"train": loader, "val": loader}, {})
    assert "setup: 1 of 3 batch, " in capsys.readouterr().err


def test_inference_gives_one_label_an_image(network):
    """OpenOOD compares them with its predictions: a column would be compared with all of those."""
    postprocessor = make_postprocessor("msp")
    postprocessor.setup(network, {}, {})
    column = postprocessor.inference(network, batches(LABELS[:, None]), progress=False)[2]
    assert column.tolist() == LABELS.tolist()
    assert postprocessor.inference(network, batches(LABELS * 0 - 1), progress=False)[2].tolist() == [-1] * 30
