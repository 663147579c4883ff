"""Networks as users write them: compiled, of low precision, not deterministic, with other outputs, or failing."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nci_plugin import Benchmark, CollapseMonitor, Features, PluginError, evaluate
from nci_plugin.detectors.registry import create
from nci_plugin.dynamics.measure import Meter
from nci_plugin.features.extract import extract
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.calling import Call
from nci_plugin.networks.cut import Cut

K, P = 4, 64
IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % K
DATA = TensorDataset(IMAGES, LABELS)
BENCHMARK = Benchmark.from_splits(
    "b", K, train=DATA, test=DATA, near={}, far={"far": TensorDataset(IMAGES * 2, LABELS)}
)
QUIET = {"device": "cpu", "progress": False}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bn, self.fc = nn.Conv2d(3, P, 3), nn.BatchNorm2d(P), nn.Linear(P, K)

    def features(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def run(network: nn.Module, **options: object) -> dict[str, Tensor]:
    evaluation = evaluate(network, BENCHMARK, ["nci", "neco", "msp"], **QUIET, **options)  # type: ignore[arg-type]
    assert not evaluation.failures
    return {name: torch.from_numpy(by_split["id/test"]) for name, by_split in evaluation.scores.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return run(Net())


def by_gate(network: nn.Module) -> dict[str, object]:
    """Every way in for a network and images."""
    return {
        "cut": lambda: Cut.of(network, IMAGES[:8]),
        "named": lambda: Cut.of(network, IMAGES[:8], "fc"),
        "evaluate": lambda: evaluate(network, BENCHMARK, ["msp"], **QUIET),  # type: ignore[arg-type]
        "extract": lambda: extract(network, BENCHMARK),
        "monitor": lambda: CollapseMonitor(network, DataLoader(DATA, 16)).step(0),
        "monitor, head named": lambda: CollapseMonitor(network, DataLoader(DATA, 16), head="fc").step(0),
        "meter": lambda: Meter(BENCHMARK, [])(network, 0),
    }


GATES = list(by_gate(Net()))

# -------------------------------------------------------------------- not the same twice


class DropoutAlways(Net):
    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.1)


class DropoutInTraining(Net):
    """Its dropout layer is switched to training by its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def features(self, x: Tensor) -> Tensor:
        return self.drop.train()(super().features(x))


class StaysInTraining(DropoutInTraining):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)

    def features(self, x: Tensor) -> Tensor:
        return self.drop(Net.features(self, x))


class Noise(Net):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x + 1e-3 * torch.randn_like(x))


class Counter(Net):
    calls = 0

    def features(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().features(x) + 1e-3 * self.calls


class Adapts(Net):
    """Changes its own weights as it answers."""

    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        self.conv.weight.mul_(0.99)
        return h


class BatchNormInTraining(Net):
    def features(self, x: Tensor) -> Tensor:
        self.bn.train()
        return super().features(x)


class CentredByBatch(Net):
    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        return h - h.mean(0)


RANDOM = [DropoutAlways, DropoutInTraining, StaysInTraining, Noise, Counter, Adapts]
BY_BATCH = [BatchNormInTraining, CentredByBatch]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", [DropoutAlways, CentredByBatch])
def test_every_gate_refuses_what_is_not_the_same_again(kind: type[Net], gate: str) -> None:
    message = "not deterministic in eval mode" if kind is DropoutAlways else "depend on the other images"
    with torch.no_grad(), pytest.raises(PluginError, match=message):
        by_gate(kind().eval())[gate]()  # type: ignore[operator]


@pytest.mark.parametrize("kind", RANDOM)
def test_a_network_that_is_not_deterministic_is_refused(kind: type[Net]) -> None:
    with pytest.raises(PluginError, match=rf"network {kind.__name__}: not deterministic in eval mode: .*switch off"):
        run(kind())


@pytest.mark.parametrize("kind", BY_BATCH)
def test_features_that_depend_on_the_batch_are_refused(kind: type[Net]) -> None:
    with pytest.raises(PluginError, match=rf"network {kind.__name__}: the features of an image depend on the other"):
        run(kind())


def test_layers_that_are_in_training_mode_are_no_fault_by_themselves(expected: dict[str, Tensor]) -> None:
    network = Net().train()
    found = run(network)
    assert network.training
    assert network.bn.training
    for name, values in expected.items():
        assert torch.equal(found[name], values)


class Rounds(Net):
    """Its features depend on the batch as those of other kernels do: by rounding."""

    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        return h * (1 + 1e-6 * h.mean())


def test_rounding_is_no_dependence_on_the_batch() -> None:
    run(Rounds())


# -------------------------------------------------------------------- what it raises and returns


def exits(x: Tensor) -> None:
    sys.exit(0)


def raises(error: BaseException) -> object:
    def forward(x: Tensor) -> None:
        raise error

    return forward


class Does(Net):
    """A network whose forward is a function of the images, or of the logits."""

    def __init__(self, forward: object = None, output: object = None) -> None:
        super().__init__()
        self.instead, self.output = forward, output

    def forward(self, x: Tensor) -> object:
        if self.instead is not None:
            return self.instead(x)  # type: ignore[operator]
        return self.output(super().forward(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (SystemExit(), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseException("x\ny"), "BaseException: x y"),
        (StopIteration(3), "StopIteration"),
        (RecursionError("deep"), "RecursionError: deep"),
        (MemoryError(), "MemoryError"),
        (KeyError("\x1b[31m"), "KeyError"),
    ],
)
def test_whatever_a_network_raises_is_one_line(error: BaseException, text: str) -> None:
    with pytest.raises(
        PluginError, match=rf"^network Does: failed on a batch of shape \(8, 3, 8, 8\) with {text}"
    ) as it:
        run(Does(raises(error)))
    assert str(it.value).isprintable()


def quantised(network: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")  # torch's own, that all of these are deprecated
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.jit.script, "is of TorchScript.*pass the network as it was before torch.jit"),
        (lambda network: torch.jit.trace(network, IMAGES[:2]), "is of TorchScript"),
        (lambda network: torch.jit.freeze(torch.jit.script(network)), "is of TorchScript"),
        (lambda network: nn.Sequential(torch.jit.script(network)), "is of TorchScript"),
        (quantised, "has quantised linear layers.*pass the network as it was before it was quantised"),
        pytest.param(
            lambda network: torch.export.export(network, (IMAGES[:2],)).module(),
            "that it was exported from",
            marks=pytest.mark.skipif(
                not hasattr(getattr(torch, "export", None), "Dim"), reason="torch.export is another here"
            ),
        ),
    ],
    ids=["script", "trace", "frozen", "inside", "quantised", "exported"],
)
@pytest.mark.parametrize("gate", ["evaluate", "monitor", "meter"])
def test_networks_that_hide_their_layers_say_so(made: Any, message: str, gate: str) -> None:
    with pytest.raises(PluginError, match=message):
        by_gate(made(Net().eval()))[gate]()  # type: ignore[operator]


class Scripted(nn.Module):
    def __init__(self, freeze: bool) -> None:
        super().__init__()
        layers, self.fc = nn.Sequential(*list(Net().eval().children())[:2]), Net().fc
        scripted = torch.jit.script(layers.eval())
        self.layers = torch.jit.freeze(scripted) if freeze else scripted

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("freeze", [False, True])
def test_what_is_before_the_head_may_be_of_torchscript(freeze: bool, expected: dict[str, Tensor]) -> None:
    for name, scores in run(Scripted(freeze)).items():
        assert torch.allclose(scores, expected[name], atol=1e-5)


def test_an_interrupt_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Does(raises(KeyboardInterrupt())))


SAME = {
    "(logits,)": lambda logits: (logits,),
    "[logits, more]": lambda logits: [logits, None],
    "{'logits': logits}": lambda logits: {"loss": None, "logits": logits},
    "OrderedDict": lambda logits: OrderedDict(logits=logits),
    ".logits": lambda logits: SimpleNamespace(logits=logits, hidden_states=None),
    "a copy": lambda logits: logits.clone(),
}


@pytest.mark.parametrize("form", SAME)
def test_outputs_of_other_forms(form: str, expected: dict[str, Tensor]) -> None:
    found = run(Does(output=SAME[form]))
    for name, values in expected.items():
        assert torch.equal(found[name], values)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (lambda logits: [], "got an empty list"),
        (lambda logits: (), "got an empty tuple"),
        (lambda logits: {}, "got an empty dict"),
        (lambda logits: None, "got NoneType"),
        (lambda logits: {"scores": logits}, "got dict"),
        (lambda logits: logits.numpy(), "got ndarray"),
        (lambda logits: [[logits]], "got list"),
        (lambda logits: logits[0], r"expected one input|no linear layer's output"),
        (lambda logits: logits.tolist(), "got list"),
        (lambda logits: logits * float("nan"), "NaN|no linear layer's output"),
        (lambda logits: logits.fill_(float("nan")), "NaN"),
    ],
)
def test_outputs_that_are_no_logits(output: object, text: str) -> None:
    with pytest.raises(PluginError, match=text) as error:
        run(Does(output=output))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gate", GATES)
def test_a_network_of_nan_weights_is_refused_before_there_are_numbers(gate: str) -> None:
    network = Net()
    with torch.no_grad():
        network.fc.bias.fill_(float("nan"))
    if gate in ("cut", "named"):
        return  # the rows are looked at where they are kept
    with torch.no_grad(), pytest.raises(PluginError, match="NaN"):
        by_gate(network.eval())[gate]()  # type: ignore[operator]


# -------------------------------------------------------------------- compiled


def decorated() -> nn.Module:
    class Decorated(Net):
        forward = torch.compile(Net.forward, backend="eager")

    return Decorated()


def in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


def forward_alone(network: nn.Module) -> nn.Module:
    network.forward = torch.compile(network.forward, backend="eager")
    return network


COMPILED = {
    "torch.compile": lambda: torch.compile(Net(), backend="eager"),
    "in place": lambda: in_place(Net()),
    "its forward": lambda: forward_alone(Net()),
    "its class's forward": decorated,
    "a part of it": lambda: nn.Sequential(nn.Identity(), torch.compile(Net(), backend="eager")),
    "in DataParallel": lambda: nn.DataParallel(torch.compile(Net(), backend="eager")),
    "DataParallel": lambda: torch.compile(nn.DataParallel(Net()), backend="eager"),
}


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_networks(kind: str, ran: bool, expected: dict[str, Tensor]) -> None:
    if kind == "in place" and not hasattr(nn.Module, "compile"):
        pytest.skip("torch without Module.compile")
    torch._dynamo.reset()
    network = COMPILED[kind]().eval()
    with torch.no_grad():
        if ran:
            for count in (16, 8):
                network(IMAGES[:count])
        before = [(id(module), dict(vars(module))) for module in network.modules()]
        output = network(IMAGES)
        found = run(network)
        for name, values in expected.items():
            assert torch.equal(found[name], values)
        after = [(id(module), dict(vars(module))) for module in network.modules()]
        assert [(key, sorted(values)) for key, values in before] == [(key, sorted(values)) for key, values in after]
        assert torch.equal(network(IMAGES), output)


def test_a_wrapper_called_module_is_part_of_the_network() -> None:
    """What DataParallel calls ``module`` others do too, and change the images before."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x / 2)

    with torch.no_grad():
        network = Halves().eval()
        features = Cut.of(network, IMAGES)(IMAGES)[0]
        assert torch.equal(features, network.module.features(IMAGES / 2))
        record = CollapseMonitor(network, DataLoader(DATA, 48)).step(0)
        other = CollapseMonitor(network.module, DataLoader(DATA, 48)).step(0)
    assert record is not None
    assert other is not None
    expected = features.double().norm(dim=1).mean()
    assert record.collapse["mean_norm_l2"] == pytest.approx(float(expected), rel=1e-5)
    assert other.collapse["mean_norm_l2"] != pytest.approx(float(expected), rel=1e-2)


# -------------------------------------------------------------------- precision


class Casts(nn.Module):
    """bfloat16 weights; images are cast by its forward, and logits back if ``back``."""

    def __init__(self, precision: torch.dtype, back: bool, cast: bool = True) -> None:
        super().__init__()
        self.net, self.precision, self.back, self.cast = Net().to(precision), precision, back, cast

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x.to(self.precision) if self.cast else x)
        return logits.float() if self.back else logits


class Autocasts(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


LOW = {
    "bfloat16": lambda: Casts(torch.bfloat16, False),
    "bfloat16, float32 logits": lambda: Casts(torch.bfloat16, True),
    "bfloat16 throughout": lambda: Casts(torch.bfloat16, False, cast=False),
    "bfloat16 alone": lambda: Net().bfloat16(),
    "float16 alone": lambda: Net().half(),
    "float64": lambda: Casts(torch.float64, False),
    "float64 alone": lambda: Net().double(),
    "autocast inside": Autocasts,
}


def needs_half() -> None:
    try:
        nn.Conv2d(3, 2, 3).half()(IMAGES[:1].half())
    except RuntimeError:
        pytest.skip("this torch has no float16 on a CPU")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", LOW)
def test_networks_of_other_precision(kind: str, named: bool) -> None:
    network = LOW[kind]().eval()
    if kind == "float16 alone":
        needs_half()
    head = "net.fc" if hasattr(network, "net") else "fc"
    bank = extract(network, BENCHMARK)
    split = bank.splits["id/test"]
    assert split.features.dtype == split.logits.dtype == torch.float32
    precision = next(network.parameters()).dtype
    with torch.no_grad():
        images = (
            IMAGES
            if isinstance(network, (Casts, Autocasts)) and getattr(network, "cast", True)
            else IMAGES.to(precision)
        )
        logits = network(images).float()
    assert torch.equal(split.logits, logits)
    run(network, **({"head": head} if named else {}))


@pytest.mark.parametrize("kind", ["bfloat16", "float16 alone", "autocast inside"])
def test_a_head_of_low_precision_that_is_not_linear_is_refused(kind: str) -> None:
    network = LOW[kind]().eval()
    if kind == "float16 alone":
        needs_half()
    inner = getattr(network, "net", network)

    class Cosine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * F.linear(F.normalize(x), F.normalize(self.weight))

    layer = Cosine(P, K, bias=False).to(inner.fc.weight.dtype)
    layer.weight.data.copy_(inner.fc.weight)
    inner.fc = layer
    with pytest.raises(PluginError, match="its output is not the network's output"):
        run(network)


def test_images_that_a_network_normalises_itself_are_not_rounded_before() -> None:
    class Normalises(Casts):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return super().forward((x - 100.003) / 1.003)

    with torch.no_grad():
        Call(Normalises(torch.bfloat16, True).eval())(IMAGES)


def test_an_autocast_of_the_callers_changes_nothing(expected: dict[str, Tensor]) -> None:
    network, statistics = Net().eval(), ClassStatistics(K, P)
    with torch.no_grad():
        features = network.features(IMAGES)
        cut = Cut.of(network, IMAGES)
    detectors = [create(name).fit(statistics.update(features, LABELS), cut.head) for name in ("neco", "nc1", "ora")]
    outside = [each.score(features, cut.head.logits(features)) for each in detectors]
    logits = cut.head.logits(features)
    monitored = CollapseMonitor(network, DataLoader(DATA, 16)).step(0)
    given = Benchmark.from_splits("b", K, test=Features(features, LABELS), near={}, far={"x": Features(features)})
    alone = evaluate(network, given, ["msp"], **QUIET).scores["msp"]["id/test"]  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        found = run(network)
        inside = [each.score(features, logits) for each in detectors]
        assert CollapseMonitor(network, DataLoader(DATA, 16)).step(0) == monitored
        assert (evaluate(network, given, ["msp"], **QUIET).scores["msp"]["id/test"] == alone).all()  # type: ignore[arg-type]
    for name, values in expected.items():
        assert torch.equal(found[name], values)
    for one, other in zip(inside, outside):
        assert torch.equal(one, other)


def test_a_probe_leaves_a_network_as_it_was() -> None:
    network = Net().train()
    before = copy.deepcopy(network.state_dict())
    run(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
