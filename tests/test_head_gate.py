"""Which layer counts as the head of a network, and what the network is called: on features, on images, with logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import TensorDataset

from nci_plugin import Benchmark, Features, LinearHead, PluginError, evaluate
from nci_plugin.detectors.neco import NECO
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.architecture import architecture_of
from nci_plugin.networks.cut import Cut
from tests.helpers.precision import skip_unless_computed

K, P = 4, 16
IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % K
QUIET = {"device": "cpu", "progress": False}


class Net(nn.Module):
    """Images to P features to K classes; the head may be another layer."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, P), nn.ReLU())
        self.fc = nn.Linear(P, K) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class ResNetOfMine(Net):
    pass


class WithAuxiliary(Net):
    """A second head, which training alone uses, registered behind the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(P, K)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(x), F.normalize(self.weight))


class Temperature(nn.Linear):
    temperature = 1.5

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.temperature


class Unscaled(Temperature):
    temperature = 1.0


class Margin(nn.Linear):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return super().forward(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(P, K)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.linear(x)


class LowRank(nn.Module):
    """As adapters are written: the product of two small layers is added to that of the base layer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.base_layer, self.a, self.b = nn.Linear(P, K), nn.Linear(P, 2, bias=False), nn.Linear(2, K, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.b(self.a(x))


def pruned() -> nn.Module:
    """Loaded after pruning: the layer's ``weight`` is that of before until it runs."""
    layer = nn.Linear(P, K)
    prune.random_unstructured(layer, "weight", 0.5)
    layer.load_state_dict({name: 3 * tensor for name, tensor in layer.state_dict().items()})
    return layer


def weight_norm() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Linear(P, K))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(3)
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def old_weight_norm() -> nn.Module:
    layer = nn.utils.weight_norm(nn.Linear(P, K))
    with torch.no_grad():
        layer.weight_g.mul_(3)
    return layer


SOUND = {
    "plain": lambda: nn.Linear(P, K),
    "no bias": lambda: nn.Linear(P, K, bias=False),
    "float64": lambda: nn.Linear(P, K),
    "in a Sequential": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(P, K)),
    "not scaled": lambda: Unscaled(P, K),
    "as attention has it": lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(P, K),
    "adapter without effect": lambda: LowRank(0.0),
    "pruned": pruned,
    "weight norm": weight_norm,
    "old weight norm": old_weight_norm,
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(P, K)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(P, K)),
}

OTHER_USE = {
    "cosine": lambda: Cosine(P, K, bias=False),
    "temperature": lambda: Temperature(P, K),
    "scaled outside": Scaled,
    "adapter": lambda: LowRank(1.0),
    "scaled behind": lambda: nn.Sequential(nn.Linear(P, K), nn.LogSoftmax(dim=1)),
}


def built(head: object) -> nn.Module:
    torch.manual_seed(2)
    return Net(head()).eval()  # type: ignore[operator]


def features_of(network: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = network.body(IMAGES)
        return features, network.fc(features)


def benchmark_of(source: object) -> Benchmark:
    return Benchmark.from_splits("b", K, train=source, test=source, near={}, far={"same": source})  # type: ignore[arg-type]


def on_images(network: nn.Module, **options: object) -> object:
    return evaluate(network, benchmark_of(TensorDataset(IMAGES, LABELS)), ["nci", "neco", "msp"], **QUIET, **options)


def on_features(
    network: object, features: Tensor, logits: Tensor | None = None, **options: object
) -> dict[str, object]:
    source = Features(features, LABELS, logits)
    return evaluate(network, benchmark_of(source), ["nci", "neco", "msp"], **QUIET, **options)  # type: ignore[arg-type]


def scores(evaluation: object) -> dict[str, object]:
    assert not evaluation.failures
    return {name: by_split["id/test"] for name, by_split in evaluation.scores.items()}


# -------------------------------------------------------------------- features alone


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SOUND)
def test_features_alone_give_what_images_give(name: str) -> None:
    network = built(SOUND[name])
    if name == "float64":
        network = network.double()
        expected = scores(evaluate(network, benchmark_of(TensorDataset(IMAGES.double(), LABELS)), ["nci"], **QUIET))
        features = network.body(IMAGES.double()).detach()
    else:
        expected, (features, _) = scores(on_images(network)), features_of(network)
    found = scores(on_features(network, features))
    for detector, values in expected.items():
        torch.testing.assert_close(*map(torch.from_numpy, (found[detector], values)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHER_USE)
def test_a_head_that_is_not_linear_is_refused_on_features_as_on_images(name: str) -> None:
    network = built(OTHER_USE[name])
    features, logits = features_of(network)
    with pytest.raises(PluginError, match="penultimate"):
        on_images(network)
    with pytest.raises(
        PluginError, match=r"^head 'fc[^']*': .* does not give W h \+ b of the features.*pass its logits"
    ):
        on_features(network, features)
    with pytest.raises(PluginError, match=r"product with the features is not the logits"):
        on_features(network, features, logits)


@pytest.mark.parametrize("layer", [Cosine(P, K), Temperature(P, K), Margin(P, K)])
def test_a_layer_alone_is_checked_too(layer: nn.Module) -> None:
    features, _ = features_of(built(SOUND["plain"]))
    with pytest.raises(PluginError, match=rf"^head: the network \({type(layer).__name__}\) does not give W h \+ b"):
        on_features(layer, features)


def test_of_several_candidates_one_must_be_named() -> None:
    network = WithAuxiliary().eval()
    features, logits = features_of(network)
    with pytest.raises(PluginError, match=r"2 of its linear layers could be its head, 'fc', 'aux'.*--head.*head="):
        on_features(network, features)
    expected = scores(on_images(network))
    for found in (on_features(network, features, head="fc"), on_features(network, features, logits)):
        for detector, values in scores(found).items():
            torch.testing.assert_close(*map(torch.from_numpy, (values, expected[detector])), rtol=1e-5, atol=1e-5)
    with pytest.raises(PluginError, match="'aux': its product with the features is not the logits"):
        on_features(network, features, logits, head="aux")


def test_layers_of_other_shapes_are_no_candidates() -> None:
    """The last one registered is of another task, or of another width."""
    for extra in (nn.Linear(P, K + 1), nn.Linear(P + 1, K)):
        network = Net().eval()
        network.add_module("later", extra)
        assert scores(on_features(network, features_of(network)[0]))
    network.fc = nn.Identity()
    with pytest.raises(PluginError, match=r"none of its linear layers takes 16 features and gives 4 classes.*'later'"):
        on_features(network, torch.ones(40, P))


def test_a_head_without_weights_is_refused() -> None:
    for layer in (nn.LazyLinear(K), nn.Linear(P, K, device="meta")):
        network = Net(layer).eval()
        for run in (lambda net: on_images(net), lambda net: on_features(net, torch.ones(40, P))):
            with pytest.raises(PluginError, match=r"network Net: 'fc.weight' holds no numbers yet"):
                run(network)


# -------------------------------------------------------------------- logits given with features


@pytest.mark.parametrize("kind", ["LinearHead", "Linear", "network"])
@pytest.mark.parametrize("wrong", ["half", "softmax", "other rows", "a class swapped"])
def test_logits_that_are_not_those_of_the_head_are_refused(kind: str, wrong: str) -> None:
    network = built(SOUND["plain"])
    features, logits = features_of(network)
    given = {"LinearHead": LinearHead.from_linear(network.fc), "Linear": network.fc, "network": network}[kind]
    assert scores(on_features(given, features, logits))
    changed = {
        "half": logits / 2,
        "softmax": logits.softmax(dim=1),
        "other rows": logits.flip(0),
        "a class swapped": logits[:, [1, 0, 2, 3]],
    }[wrong]
    with pytest.raises(PluginError, match="logits"):
        on_features(given, features, changed)
    source, other = Features(features, LABELS, logits), Features(features, LABELS, changed)
    mixed = Benchmark.from_splits("b", K, train=source, test=source, near={}, far={"bad": other})
    with pytest.raises(PluginError, match=r"^split 'far/bad': its logits are not W h \+ b"):
        evaluate(given, mixed, ["msp"], **QUIET)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("cast", [False, True])
def test_logits_of_another_precision_are_sound(precision: torch.dtype, cast: bool) -> None:
    """Also those that were cast to float32 since."""
    skip_unless_computed(precision)
    network = built(SOUND["plain"])
    features, _ = features_of(network)
    with torch.no_grad():
        logits = copy_of(network.fc, precision)(features.to(precision))
    assert scores(on_features(network.fc, features, logits.float() if cast else logits))
    with pytest.raises(PluginError, match="logits"):
        on_features(network.fc, features, logits.flip(0))


def copy_of(layer: nn.Linear, precision: torch.dtype) -> nn.Linear:
    copied = nn.Linear(layer.in_features, layer.out_features)
    copied.load_state_dict(layer.state_dict())
    return copied.to(precision)


def test_large_and_small_features_are_compared_as_any() -> None:
    network = built(SOUND["no bias"])
    features, logits = features_of(network)
    for scale in (1e-14, 1e14):
        on_features(network.fc, features * scale, logits * scale)
        with pytest.raises(PluginError, match="logits"):
            on_features(network.fc, features * scale, logits * scale * 1.1)


# -------------------------------------------------------------------- what the network is called


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Training(nn.Module):
    """As Lightning's modules are written; its name is of no family, or of the wrong one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class TrainingOfAViT(Training):
    pass


class Probe(nn.Module):
    """A backbone whose own head was taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetOfMine(nn.Identity())
        self.head = nn.Linear(P, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class VisionTransformer(Net):
    """timm's class of that name also holds DeiTs; its configuration says which it is."""


class SwinOfMine(Net):
    pass


WRAPPED = {
    "alone": lambda net: net,
    "behind a normalisation": lambda net: nn.Sequential(Normalize(), net),
    "twice": lambda net: nn.Sequential(Normalize(), nn.Sequential(Normalize(), net)),
    "as .model": Training,
    "in the class of another family": TrainingOfAViT,
    "DataParallel": nn.DataParallel,
    "DataParallel of a wrapper": lambda net: nn.DataParallel(Training(net)),
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled inside": lambda net: nn.Sequential(Normalize(), torch.compile(net, backend="eager")),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_neco_is_the_same_whatever_a_network_is_wrapped_in(wrapped: str, request: pytest.FixtureRequest) -> None:
    if wrapped.startswith("compiled"):
        request.getfixturevalue("compiler")
    bare, expected = ResNetOfMine().eval(), on_images(ResNetOfMine().eval())
    evaluation = on_images(WRAPPED[wrapped](bare).eval())
    torch.testing.assert_close(*(torch.from_numpy(scores(each)["neco"]) for each in (evaluation, expected)))
    (chosen_by,) = {row.chosen_by for row in evaluation.results if row.detector == "neco"}
    assert chosen_by.endswith("without max logit, length of the standardised feature for ResNetOfMine")


def test_the_name_of_a_network() -> None:
    def name(network: nn.Module) -> tuple[str, str]:
        with torch.no_grad():
            return architecture_of(network, Cut.of(network.eval(), IMAGES).head_name)

    assert name(Net()) == ("Net", "")
    assert name(Training(Net())) == ("Training", "")  # neither is of a family: the outermost one, as ever
    assert name(Probe()) == ("ResNetOfMine", "")
    assert name(nn.Sequential(nn.Flatten(), nn.Linear(192, K))) == ("Sequential", "")
    deit = VisionTransformer()
    deit.pretrained_cfg = {"architecture": "deit_tiny_patch16_224"}
    assert name(deit) == name(nn.Sequential(Normalize(), deit)) == ("VisionTransformer", "deit_tiny_patch16_224")


def fitted(head: LinearHead, **options: object) -> NECO:
    features = torch.randn(60, P, generator=torch.Generator().manual_seed(3)) + 1
    detector = NECO(**options)  # type: ignore[arg-type]
    detector.fit(ClassStatistics(K, P).update(features, torch.arange(60) % K), head)
    return detector


def test_rules_of_neco_by_architecture() -> None:
    """(times max logit, raw length) as the authors' code has them."""
    weight, bias = torch.randn(K, P), torch.zeros(K)

    def rules(*names: str, **options: object) -> tuple[bool, bool]:
        detector = fitted(LinearHead(weight, bias, *names), **options)
        return detector.max_logit_, detector.raw_norm_

    assert rules("ResNet18_32x32") == rules("ResNet50") == (False, False)
    assert rules("ViT_B_16") == rules("RegNet_Y_16GF") == rules("ToyNet") == rules() == (True, False)
    assert rules("Swin_T") == rules("DeiTForImageClassification") == (True, True)
    assert rules("VisionTransformer", "deit_small_patch16_224") == (True, True)
    assert rules("VisionTransformer", "vit_small_patch16_224") == (True, False)
    assert rules("VisionTransformer", "vit_base_resnet50_224_in21k") == (True, False)
    assert rules("ToyNet", scale=False) == (True, True)
    for raw in (True, False):
        assert rules("Swin_T", raw_norm=raw, max_logit=False) == (False, raw)
        assert rules("ToyNet", scale=False, raw_norm=raw) == (True, raw)


def test_neco_says_what_it_decided_and_for_what() -> None:
    weight, bias = torch.randn(K, P), torch.zeros(K)
    deit = LinearHead(weight, bias, "VisionTransformer", "deit_tiny_patch16_224")
    assert (
        fitted(deit)
        .explain_choice()
        .endswith("times max logit, length of the raw feature for VisionTransformer (deit_tiny_patch16_224)")
    )
    unknown = LinearHead(weight, bias)
    assert (
        fitted(unknown)
        .explain_choice()
        .endswith("(the network's architecture is not known: set max_logit and raw_norm)")
    )
    assert fitted(unknown, max_logit=True).explain_choice().endswith("is not known: set raw_norm)")
    assert fitted(unknown, max_logit=False, raw_norm=True).explain_choice().endswith("length of the raw feature")
    with pytest.raises(PluginError, match="raw_norm: must be one of auto, True, False, got 1"):
        NECO(raw_norm=1).check_hyperparameters()


def test_a_layer_alone_has_no_architecture_and_its_network_has() -> None:
    network = ResNetOfMine().eval()
    features, _ = features_of(network)
    for given, ending, factor in (
        (network.fc, "set max_logit and raw_norm)", True),
        (network, "for ResNetOfMine", False),
    ):
        rows = [row for row in on_features(given, features).results if row.detector == "neco"]
        assert rows[0].chosen_by.endswith(ending)
        assert (rows[0].hyperparameters["max_logit"], rows[0].hyperparameters["raw_norm"]) == (factor, False)
