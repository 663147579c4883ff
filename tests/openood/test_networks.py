"""Our ResNet against OpenOOD's, and OpenOOD's networks in our cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from openood.networks import ResNet18_32x32 as TheirResNet
from torch import nn

from nci_plugin.networks.cut import Cut
from nci_plugin.networks.factory import build_network
from nci_plugin.networks.resnet import ResNet18_32x32

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

# Arguments, the head, and the number of features.
NETWORKS = {
    "ResNet18_32x32": ({}, "fc", 512),
    "ResNet18_224x224": ({}, "fc", 512),
    "ResNet50": ({}, "fc", 2048),
    "DenseNet3": ({"depth": 40}, "fc", 132),
    "WideResNet": ({"depth": 16, "widen_factor": 2}, "fc", 128),
    "ViT_B_16": (
        {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64},
        "heads.head",
        32,
    ),
    "Swin_T": ({"depths": [1, 1, 1, 1]}, "head", 768),
    "RegNet_Y_16GF": ({}, "fc", 3024),
}


def pair() -> tuple[nn.Module, nn.Module]:
    """Both networks with one state dict whose batch norms have seen images."""
    torch.manual_seed(0)
    theirs = TheirResNet(num_classes=5).train()
    with torch.no_grad():
        for _ in range(3):
            theirs(torch.randn(8, 3, 32, 32))
    ours = ResNet18_32x32(num_classes=5, width=64)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


@torch.no_grad()
def test_resnet18_is_bit_identical() -> None:
    ours, theirs = pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.feature_size == theirs.feature_size
    assert torch.equal(ours(IMAGES), theirs(IMAGES))
    for flag in ("return_feature", "return_feature_list"):
        (logits, kept), (their_logits, their_kept) = ours(IMAGES, **{flag: True}), theirs(IMAGES, **{flag: True})
        assert torch.equal(logits, their_logits)
        assert len(kept) == len(their_kept)
        assert all(map(torch.equal, kept, their_kept))
    for threshold in (0.1, 1.0):
        assert torch.equal(ours.forward_threshold(IMAGES, threshold), theirs.forward_threshold(IMAGES, threshold))
    for index in (1, 2, 3, 4):
        assert torch.equal(ours.intermediate_forward(IMAGES, index), theirs.intermediate_forward(IMAGES, index))
    for network in (ours, theirs):
        with pytest.raises(ValueError):  # noqa: PT011  # theirs has no text
            network.intermediate_forward(IMAGES, 5)
    for our_array, their_array in zip(ours.get_fc(), theirs.get_fc()):
        np.testing.assert_array_equal(our_array, their_array)
    assert torch.equal(ours.get_fc_layer().weight, theirs.get_fc_layer().weight)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_openoods_networks_in_the_cut(name: str) -> None:
    arguments, head_name, width = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(f"openood.networks:{name}", 5, arguments).eval()
    head = dict(network.named_modules())[head_name]
    nn.init.normal_(head.weight)  # a fresh ViT's is zero
    cut = Cut.of(network, IMAGES)
    features, logits = cut(IMAGES)
    assert cut.head_name == head_name
    assert features.shape == (2, width)
    assert logits.shape == (2, 1000 if name == "RegNet_Y_16GF" else 5)
    assert torch.equal(logits, network(IMAGES))
    torch.testing.assert_close(cut.head.logits(features), logits, rtol=1e-5, atol=1e-4)
    if name not in ("DenseNet3", "WideResNet"):  # these return a list of maps
        assert torch.equal(features, network(IMAGES, return_feature=True)[1])
