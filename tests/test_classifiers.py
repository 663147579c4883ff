"""The cut on classifiers of torchvision and timm as they are, with random weights, few classes and two images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nci_plugin import Benchmark, evaluate
from nci_plugin.checks import PluginError
from nci_plugin.detectors.neco import NECO
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.architecture import architecture_of
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.factory import build_network
from nci_plugin.networks.head import LinearHead

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 3

# The head, the number of features, the side of the images, and arguments that make it quicker.
TORCHVISION = {
    "resnet18": ("fc", 512, 32),
    "densenet121": ("classifier", 1024, 32),
    "vgg11": ("classifier.6", 4096, 32, {"init_weights": False}),
    "mobilenet_v3_small": ("classifier.3", 1024, 32),
    "efficientnet_b0": ("classifier.1", 1280, 32),
    "vit_b_16": ("heads.head", 768, 32, {"image_size": 32}),
    "swin_t": ("head", 768, 32),
    "regnet_y_400mf": ("fc", 440, 32),
    "convnext_tiny": ("classifier.2", 768, 32),
}
TIMM = {
    "vit_tiny_patch16_224": ("head", 192, 224),
    "deit_tiny_patch16_224": ("head", 192, 224),
    "resnet18": ("fc", 512, 32),
    "swin_tiny_patch4_window7_224": ("head.fc", 768, 224, {"depths": (1, 1, 1, 1)}),
}


def check(spec, head_name, width, side, arguments=None):
    torch.manual_seed(0)
    network = build_network(spec, CLASSES, arguments or {}).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():  # the head of a fresh ViT
            nn.init.normal_(layer.weight)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        cut = Cut.of(network, images)
        features, logits = cut(images)
        expected = network(images)
    assert cut.head_name == head_name
    assert features.shape == (2, width)
    assert torch.equal(logits, expected)
    assert logits.shape == (2, CLASSES)
    torch.testing.assert_close(cut.head.logits(features), logits, rtol=1e-5, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 0

    benchmark = Benchmark.from_splits(
        "two", CLASSES, train=Pair(images), test=Pair(images), near={}, far={"noise": Pair(images.flip(0) * 2)}
    )
    evaluation = evaluate(network, benchmark, ["nci"], device="cpu", batch_size=2, progress=False)
    assert not evaluation.failures
    centred = features.double() - features.double().mean(0)
    weights = cut.head.weight[logits.argmax(1)].double()
    expected = (weights * centred).sum(1) / centred.norm(dim=1) + 1e-4 * features.double().norm(p=1, dim=1)
    scores = torch.from_numpy(evaluation.scores["nci"]["id/test"]).double()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


class Pair(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    check(f"torchvision:{name}", *TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    pytest.importorskip("timm")
    check(f"timm:{name}", *TIMM[name])
    network = build_network(f"timm:{name}", CLASSES, {})
    class_name, architecture = architecture_of(network, TIMM[name][0])
    assert (class_name, architecture) == (type(network).__name__, name)
    # The authors' rule for DeiT, whose class in timm is that of every ViT.
    detector = NECO().fit(
        ClassStatistics(1, 2).update(torch.randn(9, 2), torch.zeros(9).long()),
        LinearHead(torch.ones(1, 2), torch.zeros(1), class_name, architecture),
    )
    assert detector.raw_norm_ == name.startswith(("deit", "swin"))
    assert detector.max_logit_ == (name != "resnet18")


@pytest.mark.parametrize(
    ("name", "layers", "remedy"),
    [
        ("squeezenet1_1", "none", "end it in a torch.nn.Linear"),
        ("resnet18", "0.fc", "let the network return that of its last linear layer as it is, without a softmax"),
    ],
)
def test_a_network_without_a_head_says_what_to_do(name, layers, remedy):
    """SqueezeNet ends in a convolution; the other one in a softmax."""
    network = nn.Sequential(build_network(f"torchvision:{name}", CLASSES, {}), nn.Softmax(dim=1)).eval()
    message = rf"Sequential: no linear layer's output .* \(last linear layers that ran: {layers}\); {remedy}"
    with torch.no_grad(), pytest.raises(PluginError, match=message):
        Cut.of(network, torch.randn(2, 3, 64, 64))
