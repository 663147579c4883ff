"""torchvision's weights by OpenOOD's options: which ones, their preprocessing, their download and a run with them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_image
from tiny import Tiny, draw_nothing
from torchvision.models import (
    RegNet_Y_16GF_Weights,
    ResNet50_Weights,
    Swin_T_Weights,
    ViT_B_16_Weights,
)

from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.deploy.preprocessing import stated
from nci_plugin.networks.pretrained import TorchvisionWeights

pytestmark = pytest.mark.usefixtures("one_thread")

OPENOOD = {
    ("resnet50", 1): ResNet50_Weights.IMAGENET1K_V1,
    ("resnet50", 2): ResNet50_Weights.IMAGENET1K_V2,
    ("swin-t", 1): Swin_T_Weights.IMAGENET1K_V1,
    ("vit-b-16", 1): ViT_B_16_Weights.IMAGENET1K_V1,
    ("regnet", 1): RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1,
}
"""What scripts/eval_ood_imagenet.py of OpenOOD v1.5 loads."""

SMALL = "mobilenet_v3_small"


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """The URLs that were fetched; each gives random weights, in a cache of its own."""
    urls = []

    def download(url, file, hash_prefix=None, progress=True):
        assert Path(file).stem.endswith(f"-{hash_prefix}")
        urls.append(url)
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(SMALL, weights=None).state_dict(), file)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return urls


def small():
    return TorchvisionWeights.of(SMALL, 1)


# -------------------------------------------------------------------- which weights


@pytest.mark.parametrize(("arch", "version"), OPENOOD)
def test_openoods_choice(arch, version):
    weights = TorchvisionWeights.of(arch, version)
    assert weights.entry is OPENOOD[arch, version]
    assert weights.run_name == f"{arch}_tvsv{version}_base_default"


def test_torchvisions_own_names():
    assert TorchvisionWeights.of("regnet_y_16gf", 2).entry is RegNet_Y_16GF_Weights.IMAGENET1K_V2
    assert TorchvisionWeights.of("swin_t", 1).entry is Swin_T_Weights.IMAGENET1K_V1


@pytest.mark.parametrize(
    ("arch", "version", "message"),
    [
        ("swint", 1, "--arch 'swint': must be resnet50, swin-t, vit-b-16, regnet or .* (did you mean 'swin_t'?)"),
        ("swin-t", 2, "--tvs-version 2: torchvision has no IMAGENET1K_V2 of swin_t; it has IMAGENET1K_V1"),
        (
            "regnet",
            2,
            "--tvs-version 2: torchvision has no IMAGENET1K_SWAG_E2E_V2 of regnet_y_16gf; it has .*_LINEAR_V1",
        ),
    ],
)
def test_what_is_not_there_is_refused(arch, version, message):
    with pytest.raises(PluginError, match=re.escape(message).replace(r"\.\*", ".*")):
        TorchvisionWeights.of(arch, version)


# -------------------------------------------------------------------- preprocessing


def photographs():
    photo = Image.fromarray(load_sample_image("china.jpg"))
    return [
        photo,
        photo.rotate(90, expand=True),
        photo.resize((224, 224)),
        photo.crop((9, 9, 60, 41)),
        photo.resize((501, 233)),
    ]


@pytest.mark.parametrize(("arch", "version"), OPENOOD)
def test_preprocessing_is_bit_identical_to_the_preset(arch, version):
    preset = OPENOOD[arch, version].transforms()
    preprocessing = load_benchmark("imagenet", stated(TorchvisionWeights.of(arch, version).entry)).preprocessing
    for image in photographs():
        ours = preprocessing(image)
        assert ours.shape == (3, *preset.crop_size * 2)
        assert torch.equal(ours, preset(image)), image.size


def test_data_sets_keep_the_keys_of_their_preprocessing():
    """ImageNet-C is neither resized nor cropped; OpenOOD takes the normalization of the preset for it too."""
    preset = stated(TorchvisionWeights.of("regnet", 1).entry)
    benchmark = load_benchmark("imagenet", replace(preset, normalization=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))))
    for split, source in benchmark.splits.items():
        sizes = (None, None) if split == "csid/imagenet_c" else (384, 384)
        assert (source.preprocessing.pre_size, source.preprocessing.img_size) == sizes, split
        assert source.preprocessing.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


# -------------------------------------------------------------------- download


def test_weights_are_downloaded_once(downloads, capsys):
    file = small().fetch()
    assert downloads == [small().entry.url]
    assert file == Path(torch.hub.get_dir(), "checkpoints", small().entry.url.rpartition("/")[2])
    assert small().entry.url in capsys.readouterr().out
    assert small().fetch() == file
    assert len(downloads) == 1
    expected = torch.load(file, weights_only=True)
    state = small().network().state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_a_download_that_fails_says_which_file_to_fetch(downloads, monkeypatch):
    def offline(*arguments, **more):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = (
        r"MobileNet_V3_Small_Weights.IMAGENET1K_V1': cannot be downloaded \(no route to host\); fetch https://\S+\.pth"
        rf" and lay it at \S+\.pth, or pass it with --arch {SMALL} --ckpt-path FILE"
    )
    with pytest.raises(PluginError, match=message):
        small().fetch()


def test_a_damaged_file_is_not_loaded(downloads):
    file = small().fetch()
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(PluginError, match=r"MobileNet_V3_Small.*cannot be read.*; delete that file"):
        small().fetch()


# -------------------------------------------------------------------- the command


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A benchmark of 1000 classes, of which three are there."""
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    tiny = Tiny(tmp_path / "tiny")
    tiny.config["benchmark"]["num_classes"] = 1000
    tiny.config["benchmark"]["csid"]["csid"]["preprocessing"] = {"pre_size": None, "img_size": 8}
    tiny.save_config()
    monkeypatch.chdir(tiny.root)
    return tiny


def flags(tiny, *more, **options):
    return [*tiny.eval("msp", **{"net": None, "ckpt_path": None, "output": None, **options}), *more]


def msp(network, preprocessing, tiny, split):
    images = [preprocessing(Image.open(tiny.image(split, index)).convert("RGB")) for index in range(6)]
    with torch.no_grad():
        return network.eval()(torch.stack(images)).softmax(1).amax(1).numpy()


def test_a_run_with_torchvisions_weights(tiny, downloads):
    assert main(flags(tiny, "--tvs-pretrained", arch=SMALL)) == 0
    output = tiny.root / "results" / f"tiny_{SMALL}_tvsv1_base_default"
    network = small().network()
    with np.load(output / "scores" / "msp.npz") as scores:
        np.testing.assert_allclose(
            scores["near/near"], msp(network, small().entry.transforms(), tiny, "near"), rtol=1e-4
        )
    assert f'"network_factory": "torchvision:{SMALL}"' in (output / "results.jsonl").read_text()


def test_a_run_with_an_architecture_and_a_checkpoint(tiny, downloads):
    """The checkpoint is a file alone, so the preprocessing is the benchmark's."""
    file = small().fetch()
    tiny.config["benchmark"]["preprocessing"].update(pre_size=32, img_size=32)
    tiny.save_config()
    assert main(flags(tiny, arch=SMALL, ckpt_path=file, output=tiny.output)) == 0
    network = torchvision.models.get_model(SMALL)
    network.load_state_dict(torch.load(file, weights_only=True))
    preprocessing = load_benchmark(str(tiny.yaml)).preprocessing
    with np.load(tiny.output / "scores" / "msp.npz") as scores:
        np.testing.assert_allclose(scores["near/near"], msp(network, preprocessing, tiny, "near"), rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        (["--tvs-pretrained"], {"ckpt_path": "x.pth"}, "--tvs-pretrained and --ckpt-path: cannot be given together"),
        (["--tvs-pretrained"], {"net": "torchvision:resnet18"}, "--tvs-pretrained and --net: cannot be given together"),
        ([], {"arch": "resnet50", "net": "torchvision:resnet18"}, "--arch and --net: cannot be given together"),
        ([], {"arch": "resnet50"}, "--arch resnet50: needs weights; pass --ckpt-path, or --tvs-pretrained"),
        ([], {"tvs_version": 2}, "--tvs-version: is the version of torchvision's weights; pass --tvs-pretrained"),
        (["--tvs-pretrained"], {"arch": "resnet5"}, "--arch 'resnet5': must be .* (did you mean 'resnet50'?)"),
        (["--tvs-pretrained"], {"tvs_version": 2, "arch": "swin-t"}, "torchvision has no IMAGENET1K_V2 of swin_t"),
    ],
)
def test_options_that_do_not_go_together(tiny, downloads, capsys, more, options, message):
    assert main(flags(tiny, *more, **options)) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), error)
    assert error.count("\n") == 1
    assert not downloads
    assert not (tiny.root / "results").exists()


def test_other_classes_than_imagenets_are_refused_before_the_download(tiny, downloads, capsys):
    tiny.config["benchmark"]["num_classes"] = 3
    tiny.save_config()
    assert main(flags(tiny, "--tvs-pretrained")) == 2
    error = capsys.readouterr().err
    assert "torchvision's weights are for the 1000 classes of ImageNet, benchmark 'tiny' has 3;" in error
    assert not downloads


@pytest.mark.parametrize("benchmark", [[], ["all"]])
def test_an_architecture_is_of_one_benchmark(benchmark, capsys):
    assert main(["eval", *benchmark, "--tvs-pretrained"]) == 2
    assert "--arch resnet50: cannot hold for all benchmarks; name one, e.g. imagenet" in capsys.readouterr().err
