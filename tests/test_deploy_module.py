"""Network and detector as one module and as one graph in a file: the same numbers, in one forward pass."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served
import torch
from served import CLASSES, NAMES, fitted, network, rows
from torch import nn

from nci_plugin import OODDetector, PluginError
from nci_plugin.deploy.export import export
from nci_plugin.deploy.graph import _log_normal
from nci_plugin.detectors import registry

TEST, OOD = rows(40, 3), rows(30, 4, ood=True)
EXPORTS = pytest.mark.skipif(
    not hasattr(getattr(torch, "export", None), "Dim"), reason="this torch has no torch.export.Dim"
)


def settings_of(name: str) -> Any:
    return registry.create(name, K=5) if name.startswith(("knn", "nnguide")) else name


@pytest.mark.parametrize("name", registry.names())
def test_logits_scores_and_verdicts_are_the_detectors(name: str) -> None:
    detector, model = fitted(settings_of(name))
    module = detector.module()
    for images in (TEST.tensors[0], OOD.tensors[0], TEST.tensors[0][:1]):
        expected = detector.predict(images)
        with torch.inference_mode():
            logits, score, is_ood = module(images)
            assert torch.equal(logits, model(images))
        assert ((score - expected.scores).abs() <= 1e-4 * expected.scores.abs().clamp(min=1)).all()
        near = (score - float(detector.threshold())).abs() <= 1e-4 * score.abs().clamp(min=1)
        assert (near | (is_ood == expected.is_ood)).all()


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_a_network_of_coarse_logits_are_the_detectors(name: str, dtype: torch.dtype) -> None:
    model, images = network().to(dtype), torch.cat([TEST.tensors[0], OOD.tensors[0]])
    try:
        model(images.to(dtype))
    except RuntimeError:
        pytest.skip(f"this torch does not run the network in {dtype} on a CPU")
    detector = OODDetector(settings_of(name), progress=False).fit(model, rows(120, 1), rows(60, 2))
    with torch.inference_mode():
        score = detector.module()(images)[1]
    expected = detector.score(images)
    assert ((score - expected).abs() <= 1e-4 * expected.abs().clamp(min=1)).all()


def test_one_forward_pass_and_no_copy_of_the_weights() -> None:
    detector, model = fitted()
    module = detector.module()
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in module.parameters()} == shared
    calls = []
    module.network[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index,union-attr]
    module(TEST.tensors[0])
    assert len(calls) == 1
    assert not model[6]._forward_hooks
    assert isinstance(model[6], nn.Linear)


def test_it_stays_in_eval_mode_and_leaves_the_models() -> None:
    detector, model = fitted()
    module = detector.module()
    model.train()
    module.train()
    first = module(TEST.tensors[0])[1]
    assert torch.equal(module(TEST.tensors[0])[1], first)
    assert model.training
    assert not any(each.training for each in module.modules())


def test_threads_share_one_module() -> None:
    """Requests of other images at the same time get the answers of their own."""
    module = fitted()[0].module()
    with torch.inference_mode():
        expected = [module(image[None])[1] for image in TEST.tensors[0]]
    wrong: list[int] = []

    def ask(start: int) -> None:
        with torch.inference_mode():
            for turn in range(100):
                index = (start * 7 + turn) % len(expected)
                if not torch.equal(module(TEST.tensors[0][index][None])[1], expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nan_is_called_ood() -> None:
    module = fitted()[0].module()
    images = TEST.tensors[0][:2].clone()
    images[1] = torch.nan
    score, is_ood = module(images)[1:]
    assert torch.isnan(score[1])
    assert bool(is_ood[1])


def test_scores_do_not_move_under_autocast_by_more_than_the_network_does() -> None:
    detector, model = fitted("neco")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, score, _ = detector.module()(TEST.tensors[0])
    assert score.dtype == torch.float32
    assert torch.allclose(score, detector.score(TEST), atol=0.2, rtol=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["nci", "neco", "mds_pp", "nci_gated"])
def test_the_equation_is_not_computed_in_bfloat16(name: str) -> None:
    class InFloat32(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.inner(images)

    detector, _ = fitted(name)
    module = detector.module()
    module.network = InFloat32(module.network)
    with torch.inference_mode():
        expected = module(TEST.tensors[0])[1]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(TEST.tensors[0])[1], expected)


@pytest.mark.parametrize("output", ["tuple", "dict"])
def test_networks_that_return_more_than_logits(output: str) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: torch.Tensor) -> Any:
            logits = self.inner(images)
            return (logits, images) if output == "tuple" else {"logits": logits}

    detector = OODDetector(progress=False).fit(Returns(), rows(120, 1), rows(60, 2))
    assert torch.allclose(detector.module()(TEST.tensors[0])[1], detector.score(TEST), atol=1e-4)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_head_that_is_called_by_another_of_its_names(place: str) -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = network()
            self.trunk, self.fc = inner[:6], inner[6]
            self.alias = self.fc if place == "beside" else nn.Sequential(nn.Identity(), self.fc)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.alias(self.trunk(images))

    model = Aliased()
    detector = OODDetector(progress=False).fit(model, rows(120, 1), rows(60, 2))
    assert torch.allclose(detector.module()(TEST.tensors[0])[1], detector.score(TEST), atol=1e-4)
    assert isinstance(model.fc, nn.Linear)


def test_class_thresholds_are_those_of_the_predicted_class() -> None:
    detector, _ = fitted(by_class=True, tpr=0.9, class_names=NAMES)
    images = torch.cat([TEST.tensors[0], OOD.tensors[0]])
    is_ood = detector.module()(images)[2]
    assert torch.equal(is_ood, detector.predict(images).is_ood)
    assert detector.module().thresholds.shape == (CLASSES,)


def test_another_network_is_refused() -> None:
    detector, _ = fitted()
    with pytest.raises(PluginError, match="other weights"):
        detector.module(network(1))
    with pytest.raises(PluginError, match="model: must be a torch.nn.Module, got int"):
        detector.module(3)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused_even_where_the_network_takes_them() -> None:
    with pytest.raises(PluginError, match=r"must be \(3, 8, 8\) each, as in fit, got \(3, 9, 9\)"):
        fitted()[0].module()(torch.zeros(2, 3, 9, 9))


@pytest.mark.parametrize("moved", ["model", "module"])
def test_a_move_of_model_or_module_is_one_of_both(moved: str) -> None:
    """A move puts other tensors in the place of buffers, and of weights where their memory cannot be exchanged."""
    detector, model = fitted()
    module = detector.module()
    expected = module(TEST.tensors[0])
    (model if moved == "model" else module)._apply(torch.clone)
    assert all(torch.equal(one, other) for one, other in zip(module(TEST.tensors[0]), expected))
    for one, other in zip(model[:6].state_dict().values(), module.network[:6].state_dict().values()):  # type: ignore[index]
        assert one.data_ptr() == other.data_ptr()
    assert detector.score(TEST).shape == (40,)
    (model if moved == "model" else module).to("meta")
    assert all(value.is_meta for value in model.state_dict().values())
    assert all(value.is_meta for value in module.network.state_dict().values())
    if moved == "module":
        assert all(value.is_meta for value in module.state_dict().values())


@pytest.mark.parametrize(
    "cast", ["double", "half", "bfloat16", torch.float64, torch.float16], ids=lambda each: str(each)
)
def test_casts_of_the_network_are_refused_and_change_nothing(cast: Any) -> None:
    detector, model = fitted()
    module, before = detector.module(), {name: value.clone() for name, value in model.state_dict().items()}
    expected = module(TEST.tensors[0])[1]
    with pytest.raises(PluginError, match="its network is in torch.float32, and would be in torch"):
        getattr(module, cast)() if isinstance(cast, str) else module.to(cast)
    after = model.state_dict()
    assert all(value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(module(TEST.tensors[0])[1], expected)


@pytest.mark.parametrize("name", ["mds_pp", "nci_gated", "ora", "nnguide", "nc4", "knn"])
def test_what_leaves_the_network_as_it_is_leaves_the_score_too(name: str) -> None:
    module = fitted(settings_of(name))[0].module()
    expected = module(TEST.tensors[0])[1]
    types = {key: value.dtype for key, value in module.state_dict().items()}
    module.float().to(torch.float32).to("cpu", torch.float32).to(memory_format=torch.channels_last)
    assert {key: value.dtype for key, value in module.state_dict().items()} == types
    assert torch.allclose(module(TEST.tensors[0])[1], expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_cannot_be_copied_is_refused_in_one_line() -> None:
    class Locked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*network())
            self.lock = threading.Lock()

    detector = OODDetector(progress=False).fit(Locked(), rows(120, 1), rows(60, 2))
    with pytest.raises(PluginError, match="cannot be copied"):
        detector.module()


def test_the_portable_logarithm_of_the_normal_distribution() -> None:
    z = torch.cat([torch.linspace(-300, 10, 3001), torch.linspace(-3.01, -2.99, 101)]).double()
    expected = torch.special.log_ndtr(z)
    assert ((_log_normal(z) - expected).abs() <= 5e-5 * expected.abs().clamp(min=1)).all()


# -------------------------------------------------------------------- files


@EXPORTS
@pytest.mark.parametrize("name", ["nci", "nci_plus", "ora", "knn"])
def test_a_program_of_torch_export_for_any_batch(name: str, tmp_path: Path) -> None:
    detector, model = fitted(settings_of(name))
    before = dict(model.named_parameters()), dict(model.named_buffers())
    done = export(detector, tmp_path / "m.pt2", "export", TEST)
    assert done.difference <= 1e-4
    for old, new in zip(before, (dict(model.named_parameters()), dict(model.named_buffers()))):
        assert list(old) == list(new)
        assert all(new[each] is old[each] for each in old)
    assert "40 images" in str(done)
    (tmp_path / "any").touch()
    assert (tmp_path / "m.pt2").stat().st_mode == (tmp_path / "any").stat().st_mode  # who may read it
    program = torch.export.load(tmp_path / "m.pt2").module()
    with torch.no_grad():
        for count in (1, 3, 30):
            _, score, is_ood = program(OOD.tensors[0][:count])
            expected = detector.predict(OOD.tensors[0][:count])
            assert torch.allclose(score, expected.scores, atol=1e-4)
            assert torch.equal(is_ood, expected.is_ood)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_every_detector_as_onnx(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    detector, model = fitted(settings_of(name))
    export(detector, tmp_path / "m.onnx", "onnx", TEST)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 7, 30):
        images = OOD.tensors[0][:count]
        logits, score, is_ood = session.run(["logits", "score", "is_ood"], {"images": images.numpy()})
        expected = detector.predict(images)
        assert np.allclose(score, expected.scores.numpy(), rtol=1e-4, atol=1e-4)
        assert np.array_equal(logits.argmax(1), expected.labels.numpy())
        assert (is_ood == expected.is_ood.numpy()).mean() > 0.95


@EXPORTS
@pytest.mark.filterwarnings("ignore:validation images")  # the network is not trained
@pytest.mark.parametrize("name", ["whitened_cosine_pp", "nnguide", "nci_gated"])
def test_an_image_that_no_unit_answers_to_has_the_detectors_score_as_onnx(name: str, tmp_path: Path) -> None:
    """Its feature is 0, which has no direction. The images on which a file is compared may hold none such."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES))
    detector = OODDetector(settings_of(name), progress=False).fit(model, rows(120, 1), rows(60, 2))
    export(detector, tmp_path / "m.onnx", "onnx", TEST)
    dead = torch.full((1, 3, served.SIZE, served.SIZE), -1.0)
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (score,) = session.run(["score"], {"images": dead.numpy()})
    assert np.allclose(score, detector.score(dead).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [("m.onnx", "torchscript", "must be one of onnx, export"), ("m.pt", "onnx", r"named \*.onnx")],
)
def test_what_cannot_be_written(path: str, to: str, message: str, tmp_path: Path) -> None:
    detector, _ = fitted()
    with pytest.raises(PluginError, match=message):
        export(detector, tmp_path / path, to, TEST)
    assert not list(tmp_path.iterdir())


@EXPORTS
def test_a_graph_of_other_scores_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, _ = fitted()
    module = detector.module()
    module.equation.mean_ += 0.01  # type: ignore[operator]
    monkeypatch.setattr(detector, "module", lambda tpr=None: module)
    with pytest.raises(PluginError, match="the graph's scores differ"):
        export(detector, tmp_path / "m.pt2", "export", TEST)
    assert not list(tmp_path.iterdir())


@EXPORTS
def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    """The writer of torch ended the process where a file may be no larger."""
    resource = pytest.importorskip("resource")
    detector, _ = fitted()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for to, name in (("export", "m.pt2"), ("onnx", "m.onnx")):
        if to == "onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
            continue
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most[1]))
        try:
            with pytest.raises(PluginError, match=f"cannot write '{tmp_path / name}': File too large; free space"):
                export(detector, tmp_path / name, to, TEST)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert not list(tmp_path.iterdir())


def test_a_large_bank_and_a_missing_extra_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, _ = fitted(settings_of("knn"))
    monkeypatch.setattr("nci_plugin.deploy.export.BANK_BYTES", 1280)
    with pytest.raises(PluginError, match="bank_rows .*of at most 10"):
        export(detector, tmp_path / "m.pt2", "export", TEST)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PluginError, match="extra 'onnx'"):
        export(fitted()[0], tmp_path / "m.onnx", "onnx", TEST)
    assert not list(tmp_path.iterdir())


@EXPORTS
def test_a_network_that_torch_export_cannot_trace_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = served.network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images if images.sum() > -1e9 else images * 2)

    detector = OODDetector(progress=False).fit(Branches(), rows(120, 1), rows(60, 2))
    capfd.readouterr()
    with pytest.raises(PluginError, match="Branches with 'nci_plus' cannot be exported"):
        export(detector, tmp_path / "m.pt2", "export", TEST)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
