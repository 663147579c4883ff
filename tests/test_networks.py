"""Networks of any class: their cut, their factories, their checkpoints and their digest."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

from nci_plugin.checks import PluginError
from nci_plugin.features.fingerprint import network_digest, weights_digest
from nci_plugin.networks.checkpoints import find_checkpoints, load_checkpoint, read_state_dict, unchecked
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.factory import build_network, find_factory
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.resnet import ResNet18_32x32

CPU = torch.device("cpu")
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers; sub-classes change what comes out."""

    def __init__(self, num_classes=5, bias=True):
        super().__init__()
        self.first = nn.Linear(3 * 32 * 32, 8)
        self.fc = nn.Linear(8, num_classes, bias=bias)

    def features(self, x):
        return self.first(x.flatten(1)).relu()

    def forward(self, x):
        return self.fc(self.features(x))


class ReturnsTuple(Net):
    def forward(self, x):
        h = self.features(x)
        return self.fc(h), h


class ReturnsList(Net):
    def forward(self, x):
        return [self.fc(self.features(x))]


class ReturnsLogits(Net):
    def forward(self, x):
        return SimpleNamespace(loss=None, logits=super().forward(x))


class ReturnsNamedTuple(Net):
    Output = namedtuple("Output", ["logits", "aux_logits"])

    def forward(self, x):
        return self.Output(super().forward(x), None)


class ReturnsDictionary(Net):
    def forward(self, x):
        return {"prediction": super().forward(x)}


class LogSoftmax(Net):
    def forward(self, x):
        return F.log_softmax(super().forward(x), dim=1)


class Scaled(Net):
    def forward(self, x):
        return super().forward(x) / 0.07


class ReluInPlace(Net):
    """The head's output is the network's output, but something has changed it since."""

    def forward(self, x):
        return super().forward(x).relu_()


class AveragesTokens(Net):
    """The head sees every token: its input is (n, T, P)."""

    def forward(self, x):
        tokens = torch.stack([self.features(x), self.features(-x)], dim=1)
        return self.fc(tokens).mean(1)


class CallsByKeyword(Net):
    def forward(self, x):
        return self.fc(input=self.features(x))


class UnusedLater(Net):
    """The layer registered last is not the head, and neither is the one that runs last."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(8, 5)
        self.unused = nn.Linear(8, 5)

    def forward(self, x):
        h = self.features(x)
        logits = self.fc(h)
        self.auxiliary(h)
        return logits


class DenseLike(nn.Module):
    """Concatenated feature maps, ``classifier`` at the end."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)
        self.classifier = nn.Linear(11, 5)

    def forward(self, x):
        x = torch.cat([x, self.one(x).relu()], 1)
        x = torch.cat([x, self.two(x).relu()], 1)
        return self.classifier(x.mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))


def vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )


def trained_vit():
    """torchvision's ViT starts with a head of zeros, whose output could be any layer's."""
    network = vit()
    nn.init.normal_(network.heads.head.weight)
    return network


def swin():
    return SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=5)


NETWORKS = {
    "resnet18_32x32": (lambda: ResNet18_32x32(5, width=4), "fc", 32),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), "fc", 512),
    "vit": (trained_vit, "heads.head", 32),
    "vit of zeros": (vit, "heads.head", 32),
    "swin": (swin, "head", 32),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), "classifier.3", 1024),
    "densenet": (lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5), "classifier", 16),
    "dense-like": (DenseLike, "classifier", 11),
    "MLP": (mlp, "4", 8),
    "no bias": (lambda: Net(bias=False), "fc", 8),
    "tuple": (ReturnsTuple, "fc", 8),
    "list": (ReturnsList, "fc", 8),
    "named tuple": (ReturnsNamedTuple, "fc", 8),
    ".logits": (ReturnsLogits, "fc", 8),
    "head called by keyword": (CallsByKeyword, "fc", 8),
    "head is not the last layer": (UnusedLater, "fc", 8),
    "wrapped": (lambda: nn.DataParallel(Net()), "module.fc", 8),
    "linear alone": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), "1", 3072),
}


def build(make):
    torch.manual_seed(0)
    return make().eval()


# -------------------------------------------------------------------- cut


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_is_found_and_gives_the_logits(name):
    make, head_name, width = NETWORKS[name]
    network = build(make)
    with torch.no_grad():
        cut = Cut.of(network, IMAGES)
        features, logits = cut(IMAGES)
        output = network(IMAGES)
    assert cut.head_name == head_name
    assert features.shape == (3, width)
    assert cut.head.num_features == width
    assert cut.head.network == type(network.module if name == "wrapped" else network).__name__
    torch.testing.assert_close(features @ cut.head.weight.T + cut.head.bias, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cut.head.logits(features), logits, rtol=1e-5, atol=1e-5)
    output = output[0] if isinstance(output, (tuple, list)) else getattr(output, "logits", output)
    assert torch.equal(output, logits)


def test_features_are_the_penultimate_ones():
    network = build(lambda: ResNet18_32x32(5, width=4))
    with torch.no_grad():
        features, logits = Cut.of(network, IMAGES)(IMAGES)
        expected_logits, expected = network(IMAGES, return_feature=True)
    assert torch.equal(features, expected)
    assert torch.equal(logits, expected_logits)
    assert features.min() >= 0


@torch.no_grad()
def test_resnet18_answers_as_openoods_networks_do():
    """Each answer against the layers by name; tests/openood compares with OpenOOD itself."""
    network = build(lambda: ResNet18_32x32(5, width=4))
    maps = [F.relu(network.bn1(network.conv1(IMAGES)))]
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps.append(layer(maps[-1]))
    pooled = maps[4].mean((2, 3))
    logits, feature_list = network(IMAGES, return_feature_list=True)
    assert torch.equal(logits, network(IMAGES))
    assert all(torch.equal(one, other) for one, other in zip(feature_list[:4], maps))
    assert feature_list[4].shape == (3, 32, 1, 1)
    torch.testing.assert_close(feature_list[4].flatten(1), pooled)
    for index in (1, 2, 3, 4):
        assert torch.equal(network.intermediate_forward(IMAGES, index), maps[index])
    for index in (0, 5, -1):
        with pytest.raises(ValueError, match=r"must be 1, 2, 3 or 4"):
            network.intermediate_forward(IMAGES, index)
    threshold = float(pooled.median())
    torch.testing.assert_close(network.forward_threshold(IMAGES, threshold), network.fc(pooled.clip(max=threshold)))
    weight, bias = network.get_fc()
    assert network.get_fc_layer() is network.fc
    assert (weight.shape, bias.shape, type(weight).__name__) == ((5, 32), (5,), "ndarray")
    assert torch.equal(torch.from_numpy(weight), network.fc.weight)
    assert torch.equal(torch.from_numpy(bias), network.fc.bias)


def test_a_head_without_bias_has_a_bias_of_zeros():
    network = build(lambda: Net(bias=False))
    assert Cut(network, "fc").head.bias.tolist() == [0] * 5


def test_the_head_is_a_copy():
    network = build(Net)
    head = Cut(network, "fc").head
    before = head.weight.clone()
    with torch.no_grad():
        network.fc.weight.zero_()
    assert torch.equal(head.weight, before)


def test_cutting_changes_nothing_and_leaves_no_hook():
    network = build(Net)
    before = network(IMAGES)
    digest = weights_digest(network)
    with torch.no_grad():
        Cut.of(network, IMAGES)(IMAGES)
    assert torch.equal(network(IMAGES), before)
    assert weights_digest(network) == digest
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_no_hook_is_left_by_a_network_that_fails():
    network = build(Net)
    with pytest.raises(PluginError, match=r"Net: failed on a batch of shape .* with RuntimeError: .*--batch-size"):
        Cut.of(network, IMAGES[:, :1])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_float64_networks_give_float32_features():
    network = build(Net).double()
    with torch.no_grad():
        features, logits = Cut.of(network, IMAGES.double())(IMAGES.double())
    assert features.dtype == logits.dtype == torch.float32


def test_a_head_that_is_named():
    network = build(Net)
    with torch.no_grad():
        assert Cut.of(network, IMAGES, "fc").head_name == "fc"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("first", "head 'first': its output is not the network's output, .*let the network return .* or name another"),
        ("classifier", r"head 'classifier': must be a torch.nn.Linear of the network, got no such layer; .*--head"),
        ("", "must be a torch.nn.Linear of the network, got Net"),
    ],
)
def test_a_wrong_name_is_refused(head, message):
    network = build(Net)
    with torch.no_grad(), pytest.raises(PluginError, match=message):
        Cut(network, head) if not head else Cut.of(network, IMAGES, head)


RETURN = r"(network|head).*; let the network return that of its last linear layer as it is, without a softmax"


@pytest.mark.parametrize(
    ("make", "named", "message"),
    [
        *((make, named, RETURN) for make in (LogSoftmax, Scaled, ReluInPlace) for named in (False, True)),
        (AveragesTokens, False, RETURN),
        (AveragesTokens, True, r"expected one input \(n, P\) a batch .* it ran 1 times on .*--head fc"),
        (nn.Flatten, False, "end it in a torch.nn.Linear"),
        (nn.Flatten, True, "got no such layer; .*--head fc"),
    ],
)
def test_a_network_whose_output_is_no_linear_layers_is_refused(make, named, message):
    """To name the head again would not help."""
    network = build(make)
    with torch.no_grad(), pytest.raises(PluginError, match=message):
        Cut.of(network, IMAGES, "fc" if named else None)


def test_an_output_that_is_no_tensor_is_refused():
    with torch.no_grad(), pytest.raises(PluginError, match="must return logits .* got dict"):
        Cut.of(build(ReturnsDictionary), IMAGES)


# -------------------------------------------------------------------- factories

FACTORY_FILE = """
from torch import nn
from {neighbour} import WIDTH

class FromFile(nn.Module):
    def __init__(self, num_classes=2, width=WIDTH):
        super().__init__()
        self.fc = nn.Linear(width, num_classes)

def plain():
    return FromFile()

def with_classes(num_classes):
    return FromFile(num_classes)

def with_any(**arguments):
    return FromFile(**arguments)

def imports_late(num_classes):
    import {late}
    return FromFile(num_classes, {late}.WIDTH)

def fails(num_classes):
    raise ValueError("no weights here")

def no_network():
    return 5

NOT_CALLABLE = 5
"""


@pytest.fixture
def factory_file(tmp_path, monkeypatch):
    """A file of factories with two neighbours, under names that no other test has imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    number = len([name for name in sys.modules if name.startswith("neighbour_")])
    neighbour, late = f"neighbour_{number}", f"neighbour_late_{number}"
    (tmp_path / f"{neighbour}.py").write_text("WIDTH = 7\n")
    (tmp_path / f"{late}.py").write_text("WIDTH = 9\n")
    path = tmp_path / "my_networks.py"
    path.write_text(FACTORY_FILE.format(neighbour=neighbour, late=late))
    return path


@pytest.mark.parametrize(("name", "classes"), [("plain", 2), ("with_classes", 11), ("with_any", 11), ("FromFile", 11)])
def test_factories_of_a_file_with_a_neighbour(factory_file, name, classes):
    network = build_network(f"{factory_file}:{name}", 11, {})
    assert network.fc.weight.shape == (classes, 7)


def test_a_factory_may_import_its_neighbour_when_it_is_called(factory_file):
    assert build_network(f"{factory_file}:imports_late", 3, {}).fc.weight.shape == (3, 9)


def test_a_file_that_extends_the_search_path_itself(factory_file):
    """Research code often starts with sys.path.insert(0, ...): that entry has to stay."""
    library = factory_file.parent / "library"
    library.mkdir()
    (library / "library_of_the_test.py").write_text("WIDTH = 13\n")
    text = factory_file.read_text().replace("import neighbour_late", "import library_of_the_test as neighbour_late")
    factory_file.write_text(f"import sys\nsys.path.insert(0, {str(library)!r})\n{text}")
    assert build_network(f"{factory_file}:imports_late", 3, {}).fc.weight.shape == (3, 13)


def test_a_relative_file(factory_file, monkeypatch):
    monkeypatch.chdir(factory_file.parent)
    assert callable(find_factory("my_networks.py:plain"))
    monkeypatch.chdir("/")
    with pytest.raises(PluginError, match=r"there is no file 'my_networks.py'; expected FILE.py:FACTORY"):
        find_factory("my_networks.py:plain")


def test_arguments_come_before_the_benchmarks_number_of_classes(factory_file):
    network = build_network(f"{factory_file}:FromFile", 11, {"num_classes": 4, "width": 3})
    assert network.fc.weight.shape == (4, 3)


def test_factories_of_modules():
    assert find_factory("torchvision.models:resnet18") is torchvision.models.resnet18
    network = build_network("nci_plugin.networks.resnet:ResNet18_32x32", 7, {"width": 2})
    assert network.fc.weight.shape == (7, 16)
    assert build_network("torchvision.models:resnet18", 7, {}).fc.out_features == 7
    assert build_network("torch.nn:Linear", 7, {"in_features": 2, "out_features": 3}).out_features == 3


def test_classifiers_of_torchvision_by_name():
    torch.manual_seed(0)
    network = build_network("torchvision:resnet18", 7, {})
    torch.manual_seed(0)
    expected = torchvision.models.resnet18(num_classes=7)
    assert weights_digest(network) == weights_digest(expected)
    assert build_network("torchvision:vit_b_16", 7, {"image_size": 32, "num_classes": 3}).heads.head.out_features == 3


def test_models_of_timm_by_name():
    timm = pytest.importorskip("timm")
    network = build_network("timm:resnet18", 7, {})
    assert type(network) is type(timm.create_model("resnet18"))
    assert network.fc.out_features == 7
    with pytest.raises(PluginError, match=r"timm has no such model \(did you mean 'vit_tiny_patch16_224'\?\)$"):
        find_factory("timm:vit_tiny_patch16_22")


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PluginError, match=r"network 'timm:resnet18': timm cannot be imported .*; pip install timm$"):
        find_factory("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", "(did you mean 'resnet50'?)"),
        ("fcn_resnet50", "torchvision has no such model"),  # it is no classifier
        ("no model at all", "torchvision has no such model"),
    ],
)
def test_torchvision_without_such_a_classifier(name, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        find_factory(f"torchvision:{name}")


def test_a_package_of_the_users(tmp_path, monkeypatch):
    package = tmp_path / "users_package_of_networks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from torch import nn\ndef make(num_classes): return nn.Linear(2, num_classes)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_network("users_package_of_networks.nets:make", 6, {}).out_features == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("with_clases", "has no factory 'with_clases' (did you mean 'with_classes'?)"),
        ("NOT_CALLABLE", "has no factory 'NOT_CALLABLE'"),
        ("fails", "the factory failed with ValueError: no weights here; it was called with {'num_classes': 3}"),
        ("no_network", "the factory must return a torch.nn.Module, got int"),
    ],
)
def test_wrong_factories_of_a_file(factory_file, name, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        build_network(f"{factory_file}:{name}", 3, {})


@pytest.mark.parametrize("spec", ["resnet18", "resnet18:", ":resnet18", ""])
def test_a_name_of_another_form(spec):
    with pytest.raises(PluginError, match=r"expected FILE.py:FACTORY or package.module:factory"):
        find_factory(spec)


def test_modules_that_are_not_there_or_fail(tmp_path):
    with pytest.raises(PluginError, match="cannot import 'no_such_module'"):
        find_factory("no_such_module:make")
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(PluginError, match="failed with SyntaxError"):
        find_factory(f"{tmp_path / 'broken.py'}:make")


# -------------------------------------------------------------------- checkpoints


def small():
    torch.manual_seed(1)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 3), bn=nn.BatchNorm2d(2), fc=nn.Linear(2, 3)))


def legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_safetensors(state, path):
    safetensors.torch.save_file(state, path)


WRITERS = {"zip.ckpt": torch.save, "legacy.pth": legacy, "tensors.safetensors": as_safetensors}


def assert_read(path, expected):
    state = read_state_dict(path)
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("file", WRITERS)
def test_checkpoints_of_every_format(tmp_path, file):
    state = dict(small().state_dict())
    WRITERS[file](state, tmp_path / file)
    assert_read(tmp_path / file, state)


def same(got, expected):
    return list(got) == list(expected) and all(torch.equal(got[name], expected[name]) for name in expected)


def test_every_flipped_byte_of_a_checkpoint_is_noticed_or_harmless(tmp_path):
    """Its zip file has bytes that nothing reads, such as times; no other weights come from it."""
    path = tmp_path / "zip.ckpt"
    state = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3)}
    torch.save(state, path)
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            assert same(read_state_dict(path), state), place
        except PluginError:
            noticed += 1
    print(f"{noticed} of {len(whole)} flips noticed, the others harmless")
    assert noticed > 48


def test_a_checkpoint_that_was_cut_short_is_noticed(tmp_path):
    for file, write in WRITERS.items():
        write({"fc.weight": torch.arange(12.0).reshape(3, 4)}, tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
        for length in [*range(0, len(whole), 37), len(whole) - 1]:
            (tmp_path / file).write_bytes(whole[:length])
            with pytest.raises(PluginError, match="train it again|not a file of tensors|expected a state"):
                read_state_dict(tmp_path / file)


@pytest.mark.parametrize("file", WRITERS)
def test_which_formats_have_checksums(tmp_path, file):
    WRITERS[file]({"fc.weight": torch.ones(2)}, tmp_path / file)
    assert (unchecked(tmp_path / file) is None) == (file == "zip.ckpt")


@pytest.mark.parametrize("file", WRITERS)
def test_the_prefix_of_data_parallel_is_taken_off(tmp_path, file):
    state = dict(small().state_dict())
    WRITERS[file](dict(nn.DataParallel(small()).state_dict()), tmp_path / file)
    assert_read(tmp_path / file, state)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("file", ["zip.ckpt", "legacy.pth"])
def test_weights_under_a_key_beside_other_things(tmp_path, file, key):
    state = small().state_dict()
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    WRITERS[file]({"epoch": 3, key: state, "optimizer": optimizer.state_dict(), "name": "x"}, tmp_path / file)
    assert_read(tmp_path / file, dict(state))


def test_a_wrapped_network_under_a_key(tmp_path):
    torch.save({"state_dict": nn.DataParallel(small()).state_dict(), "epoch": 1}, tmp_path / "a.ckpt")
    assert_read(tmp_path / "a.ckpt", dict(small().state_dict()))


def test_only_a_prefix_that_all_names_have_is_taken_off(tmp_path):
    state = {"module.weight": torch.ones(2), "weight": torch.zeros(2)}
    torch.save(state, tmp_path / "a.ckpt")
    assert_read(tmp_path / "a.ckpt", state)


def test_parameters_instead_of_tensors(tmp_path):
    torch.save(dict(small().named_parameters()), tmp_path / "a.ckpt")
    assert set(read_state_dict(tmp_path / "a.ckpt")) == {name for name, _ in small().named_parameters()}


def test_a_checkpoint_without_batch_counters_loads(tmp_path):
    """Those of before torch 0.4.1."""
    state = {name: tensor for name, tensor in small().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "a.ckpt")
    network = small()
    with torch.no_grad():
        network.fc.weight.zero_()
    load_checkpoint(network, tmp_path / "a.ckpt")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_loading_fills_every_weight_and_buffer(tmp_path):
    source = small()
    source.bn.running_mean.add_(3)
    source.bn.num_batches_tracked.add_(17)
    torch.save(source.state_dict(), tmp_path / "a.ckpt")
    target = small()
    load_checkpoint(target, tmp_path / "a.ckpt")
    assert weights_digest(target) == weights_digest(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.bias"), "1 keys differ: 'fc.bias' is missing"),
        (lambda state: state.update(extra=torch.ones(1)), "'extra' is not in the network"),
        (lambda state: state.update({"fc.bias": torch.ones(4)}), r"'fc.bias' is \(4,\), the network has \(3,\)"),
        (lambda state: state.update({"fc.bias": torch.full((3,), float("nan"))}), "'fc.bias' holds NaN or infinity"),
        (lambda state: state.clear(), "expected a state dict of named tensors"),
        (lambda state: state.update(epoch=3), "expected a state dict of named tensors"),
    ],
)
def test_a_checkpoint_that_does_not_fit(tmp_path, change, message):
    state = dict(small().state_dict())
    change(state)
    torch.save(state, tmp_path / "a.ckpt")
    network = small()
    digest = weights_digest(network)
    with pytest.raises(PluginError, match=message):
        load_checkpoint(network, tmp_path / "a.ckpt")
    assert weights_digest(network) == digest, "nothing was loaded"


def test_seeds_are_found_in_order(tmp_path):
    for seed in ("s2", "s0", "s1", "other"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "best.ckpt").write_bytes(b"")
    assert list(find_checkpoints(tmp_path)) == ["s0", "s1", "s2"]
    assert find_checkpoints(tmp_path / "s0" / "best.ckpt") == {"": tmp_path / "s0" / "best.ckpt"}
    with pytest.raises(PluginError, match="pass --ckpt-path"):
        find_checkpoints(tmp_path / "s0")


# -------------------------------------------------------------------- digest


def digest_of(network, device=CPU, batch_size=200):
    return network_digest(network, device, batch_size)


def test_equal_networks_have_equal_digests():
    assert digest_of(build(Net)) == digest_of(build(Net))
    network = build(lambda: ResNet18_32x32(5, width=2))
    assert digest_of(network) == digest_of(copy.deepcopy(network))
    assert weights_digest(network) == weights_digest(copy.deepcopy(network))


def test_using_a_network_does_not_change_its_digest():
    network = build(lambda: ResNet18_32x32(5, width=2))
    before = digest_of(network)
    with torch.no_grad():
        Cut.of(network, IMAGES)(IMAGES)
    assert digest_of(network) == before


def test_weights_batch_size_and_kind_of_device_change_the_digest():
    network = build(Net)
    before = digest_of(network)
    assert digest_of(network, batch_size=100) != before
    assert digest_of(network, torch.device("cuda")) != before
    assert digest_of(network, torch.device("cuda:0")) == digest_of(network, torch.device("cuda:1"))
    with torch.no_grad():
        weight = network.first.weight
        weight[3, 7] = torch.nextafter(weight[3, 7], torch.tensor(10.0))
    assert digest_of(network) != before


def test_buffers_change_the_digest():
    network = build(lambda: ResNet18_32x32(5, width=2))
    before = digest_of(network)
    network.bn1.running_var[0] += 1
    assert digest_of(network) != before


@pytest.mark.parametrize("other", [nn.GELU, nn.Identity, lambda: nn.LeakyReLU(0.1)])
def test_structure_without_weights_changes_the_digest(other):
    torch.manual_seed(0)
    network = mlp()
    changed = copy.deepcopy(network)
    changed[2] = other()
    assert weights_digest(network) == weights_digest(changed)
    assert digest_of(network) != digest_of(changed)


def test_names_and_shapes_of_weights_change_the_digest():
    one = nn.ParameterDict({"a": nn.Parameter(torch.ones(2, 3))})
    two = nn.ParameterDict({"b": nn.Parameter(torch.ones(2, 3))})
    three = nn.ParameterDict({"a": nn.Parameter(torch.ones(3, 2))})
    four = nn.ParameterDict({"a": nn.Parameter(torch.ones(2, 3, dtype=torch.float64))})
    assert len({weights_digest(network) for network in (one, two, three, four)}) == 4


def test_the_source_of_a_class_changes_the_digest(tmp_path, monkeypatch):
    text = "from torch import nn\nclass Scale(nn.Module):\n    def forward(self, x):\n        return x * 2\n"
    path = tmp_path / "module_with_a_scale.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path.write_text(text)
    module = importlib.import_module("module_with_a_scale")
    before = digest_of(module.Scale())
    assert digest_of(module.Scale()) == before
    path.write_text(text.replace("x * 2", "x * 3.5"))
    importlib.invalidate_caches()
    after = digest_of(importlib.reload(module).Scale())
    assert after != before
    del sys.modules["module_with_a_scale"]


def test_a_class_without_source_has_a_digest_still():
    space = {"__name__": "__interactive__"}
    exec("from torch import nn\nclass Made(nn.Module): pass", space)
    assert digest_of(space["Made"]()) == digest_of(space["Made"]())


def test_the_digest_of_a_head():
    weight, bias = torch.ones(2, 3), torch.zeros(2)
    before = weights_digest(LinearHead(weight, bias))
    assert weights_digest(LinearHead(weight.clone(), bias, "another name")) == before
    assert weights_digest(LinearHead(weight, bias + 1)) != before
