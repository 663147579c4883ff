"""The gate of networks, by way of OpenOOD's postprocessors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nci_plugin import PluginError
from nci_plugin.adapters.openood.postprocessor import make_postprocessor

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LOADER = [{"data": images, "label": torch.arange(8) % 3} for images in IMAGES.split(8)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU()), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.body(x))


class Random(Net):
    def forward(self, x: Tensor) -> Any:
        return self.fc(nn.functional.dropout(self.body(x), 0.2))


class ByBatch(Net):
    def forward(self, x: Tensor) -> Any:
        h = self.body(x)
        return self.fc(h - h.mean(0))


class Tempered(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) / 1.5


class Exits(Net):
    def forward(self, x: Tensor) -> Any:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Random, "Random: not deterministic in eval mode"),
        (ByBatch, "ByBatch: the features of an image depend on the other images"),
        (Tempered, "Tempered: no linear layer's output is the network's output"),
        (Exits, "Exits: failed on a batch .* with SystemExit: 0"),
    ],
)
@pytest.mark.parametrize("name", ["neco", "msp"])
def test_a_network_that_cannot_be_used_is_refused(kind: type[Net], message: str, name: str) -> None:
    """By ``setup``, or on the first batch where a detector fits on nothing."""

    def used() -> None:
        postprocessor = make_postprocessor(name)
        postprocessor.setup(kind(), {"train": LOADER}, {})
        postprocessor.postprocess(kind().eval(), IMAGES[:8])

    with pytest.raises(PluginError, match=message):
        used()


def test_wrappers_change_no_score() -> None:
    scores = []
    for network in (Net(), nn.DataParallel(Net()), nn.Sequential(nn.Identity(), Net())):
        postprocessor = make_postprocessor("neco")
        postprocessor.setup(network, {"train": LOADER}, {})
        scores.append(postprocessor.postprocess(network, IMAGES[:8])[1])
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
