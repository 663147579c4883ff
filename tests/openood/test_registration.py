"""The plugin's detectors as postprocessors of OpenOOD: names, evaluator, shared pass, pickles, hyper-parameters."""

from __future__ import annotations

import copy
import pickle
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openood.pipelines  # noqa: F401 - holds get_postprocessor by name
import pytest
import torch
from cifar import BENCHMARK, COUNTS, OTHERS, Checkout, network
from openood.evaluation_api import Evaluator
from openood.evaluation_api import evaluator as evaluator_module
from openood.evaluation_api import postprocessor as evaluation_api
from openood.evaluation_api.datasets import get_id_ood_dataloader
from openood.evaluation_api.preprocessor import get_default_preprocessor
from openood.pipelines import test_ood_pipeline as pipeline_module
from openood.postprocessors import BasePostprocessor, NCIPostprocessor
from openood.postprocessors.info import num_classes_dict
from openood.utils.config import Config
from PIL import ImageFile
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nci_plugin
from nci_plugin import PluginError, evaluate
from nci_plugin.adapters.openood import training_pass
from nci_plugin.adapters.openood.device import cuda_on
from nci_plugin.adapters.openood.postprocessor import DetectorPostprocessor, make_postprocessor
from nci_plugin.config import config_directory, load_detector
from nci_plugin.detectors import registry
from nci_plugin.evaluation.search import chosen_hyperparameters
from nci_plugin.features.split import FeatureSplit

BASELINES = ["knn", "msp", "mls", "ebo"]
KEPT = [*BASELINES, "dice", "fdbd", "gen", "klm", "nnguide", "react", "scale", "vim"]
NEW = [name for name in registry.names() if name not in KEPT]
FITTED = [name for name in NEW if name != "rmds_pp"]
"""60 training images in 256 dimensions are too few for that one, which is refused."""
BATCH = 32
TRAIN_BATCHES = -(-COUNTS["id/train"] // BATCH)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Registered in this file only, and never a download."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        patch.setattr(urllib.request, "urlretrieve", refuse)
        patch.setattr("gdown.download", refuse)
        nci_plugin.register()
        yield
        nci_plugin.register(override=False)


@pytest.fixture(autouse=True)
def no_pass_of_another_test() -> None:
    training_pass.forget()


def refuse(*arguments: Any, **options: Any) -> None:
    raise AssertionError(f"download {arguments}")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("registration") / "OpenOOD")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network(0)


def evaluator(net: nn.Module, checkout: Checkout, name: str | None = None, **options: Any) -> Evaluator:
    options.setdefault("config_root", str(checkout.root / "configs"))
    with cuda_on(torch.device("cpu")):
        return Evaluator(
            net,
            BENCHMARK,
            data_root=str(checkout.data),
            postprocessor_name=name,
            batch_size=BATCH,
            num_workers=0,
            **options,
        )


def score(host: Evaluator) -> dict[str, Any]:
    """OpenOOD's scores by data set, after both of its evaluations."""
    with cuda_on(torch.device("cpu")):
        host.eval_ood(progress=False)
        host.eval_ood(fsood=True, progress=False)
    groups = {**host.scores["csid"], **host.scores["ood"]["near"], **host.scores["ood"]["far"]}
    return {"test": host.scores["id"]["test"][1], **{name: each[1] for name, each in groups.items()}}


def loaders(checkout: Checkout, **options: Any) -> dict[str, Any]:
    options = {"batch_size": BATCH, "shuffle": False, "num_workers": 0, **options}
    return get_id_ood_dataloader(BENCHMARK, str(checkout.data), get_default_preprocessor(BENCHMARK), **options)


def calls(net: nn.Module) -> list[int]:
    """The batch size of every forward pass from now on."""
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def set_up(name: str, net: nn.Module, id_loaders: Any, **hyperparameters: Any) -> DetectorPostprocessor:
    postprocessor = make_postprocessor(name, **hyperparameters)
    postprocessor.setup(net, id_loaders, None)
    return postprocessor


# -------------------------------------------------------------------- names


def test_names() -> None:
    assert {"nci", "neco", "pscore", "nci_l2", "feature_norm", "knn_l1"} <= set(NEW)
    for name in NEW:
        assert evaluation_api.postprocessors[name] is DetectorPostprocessor
    for name in KEPT:
        assert evaluation_api.postprocessors[name].__module__.startswith("openood.")
    assert evaluation_api.postprocessors["nci_builtin"] is NCIPostprocessor


def test_last_registration_counts() -> None:
    nci_plugin.register()
    holders = (evaluator_module.get_postprocessor, pipeline_module.get_postprocessor)
    try:
        nci_plugin.register(override=False)
        assert evaluation_api.postprocessors["nci"] is NCIPostprocessor
        assert evaluation_api.postprocessors["neco"] is DetectorPostprocessor
        assert (evaluator_module.get_postprocessor, pipeline_module.get_postprocessor) == holders
        whole = Config({"postprocessor": load_config("nci"), "dataset": {"name": BENCHMARK, "num_classes": 10}})
        assert type(pipeline_module.get_postprocessor(whole)) is NCIPostprocessor
        builtin = evaluator_module.get_postprocessor(str(config_directory()), "nci", BENCHMARK)
        assert type(builtin) is NCIPostprocessor
    finally:
        nci_plugin.register()
    assert evaluation_api.postprocessors["nci"] is DetectorPostprocessor


def load_config(name: str) -> dict[str, Any]:
    raw = Config(str(config_directory() / "postprocessors" / f"{name}.yml")).__getstate__()
    return raw["postprocessor"]


@pytest.mark.parametrize("name", NEW)
def test_both_registries_construct_it(name: str, tmp_path: Path) -> None:
    by_name = evaluator_module.get_postprocessor(str(tmp_path), name, BENCHMARK)
    whole = Config({"postprocessor": load_config(name), "dataset": {"name": BENCHMARK, "num_classes": 10}})
    by_config = pipeline_module.get_postprocessor(whole)
    setup = load_detector(name)
    for postprocessor in (by_name, by_config):
        assert isinstance(postprocessor, BasePostprocessor)
        assert postprocessor.detector.name == name
        assert postprocessor.detector.get_hyperparameters() == setup.detector.get_hyperparameters()
        assert postprocessor.args_dict == {f"{key}_list": values for key, values in setup.sweep.items()}
        assert postprocessor.APS_mode == bool(setup.sweep)
        assert not postprocessor.hyperparam_search_done
    assert not any(tmp_path.iterdir())


def test_the_users_yaml_wins(tmp_path: Path) -> None:
    path = tmp_path / "postprocessors" / "neco.yml"
    path.parent.mkdir()
    path.write_text("postprocessor:\n  name: neco\n  postprocessor_args:\n    dim: 3\n", encoding="utf-8")
    postprocessor = evaluator_module.get_postprocessor(str(tmp_path), "neco", BENCHMARK)
    assert postprocessor.detector.dim == 3
    assert postprocessor.APS_mode is False

    nci = path.with_name("nci.yml")
    nci.write_text("postprocessor:\n  name: nci\n  APS_mode: False\n  postprocessor_args:\n    alpha: 0.5\n")
    builtin = evaluator_module.get_postprocessor(str(tmp_path), "nci_builtin", BENCHMARK)
    assert (type(builtin), builtin.alpha, builtin.APS_mode) == (NCIPostprocessor, 0.5, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: neco, postprocessor_args: {dimm: 3}}", "unknown key 'dimm' (did you mean 'dim'?)"),
        ("{name: neco, APS_mode: True}", "postprocessor_sweep has no list"),
        ("{name: nci}", "its name must be 'neco'"),
        ("text", "must be a mapping"),
        ("[", "not valid YAML"),
    ],
)
def test_a_yaml_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "postprocessors" / "neco.yml"
    path.parent.mkdir()
    path.write_text(f"postprocessor: {text}\n", encoding="utf-8")
    with pytest.raises(PluginError, match="neco") as error:
        evaluator_module.get_postprocessor(str(tmp_path), "neco", BENCHMARK)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_openoods_matter(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="download"):
        evaluator_module.get_postprocessor(str(tmp_path), "no_such", BENCHMARK)
    with pytest.raises(KeyError):
        pipeline_module.get_postprocessor(Config({"postprocessor": {"name": "no_such"}, "dataset": {"name": "x"}}))


def test_openoods_own_know_the_classes_of_another_data_set(monkeypatch: pytest.MonkeyPatch, checkout: Checkout) -> None:
    monkeypatch.setattr("openood.postprocessors.info.num_classes_dict", num_classes_dict)
    whole = Config({"postprocessor": {"name": "she", "postprocessor_args": {"metric": "inner_product"}}})
    for name, classes in (("mine", 7), ("mine", 8), (BENCHMARK, 99)):
        own = Config(whole, {"dataset": {"name": name, "num_classes": classes}})
        expected = 10 if name == BENCHMARK else classes
        assert pipeline_module.get_postprocessor(own).num_classes == expected
    monkeypatch.setitem(evaluation_api_data_info(), "theirs", {"num_classes": 5})
    assert evaluator_module.get_postprocessor(str(checkout.root / "configs"), "mds", "theirs").num_classes == 5
    for name in ("mine", "theirs"):
        del num_classes_dict[name]


def evaluation_api_data_info() -> dict[str, Any]:
    from openood.evaluation_api.datasets import DATA_INFO

    return DATA_INFO


# -------------------------------------------------------------------- the evaluator


def test_nci_is_openoods_nci(net: nn.Module, checkout: Checkout) -> None:
    ours, theirs = evaluator(net, checkout, "nci"), evaluator(net, checkout, "nci_builtin")
    assert isinstance(ours.postprocessor, DetectorPostprocessor)
    assert isinstance(theirs.postprocessor, NCIPostprocessor)
    assert ours.postprocessor.get_hyperparam() == theirs.postprocessor.get_hyperparam()
    expected = score(theirs)
    for name, scores in score(ours).items():
        assert scores.dtype == expected[name].dtype
        limit = 1e-5 * np.maximum(1, np.abs(expected[name]))
        assert (np.abs(scores - expected[name]) <= limit).all(), name
    assert ours.metrics["id_acc"] == theirs.metrics["id_acc"] > 10
    np.testing.assert_array_equal(ours.scores["id"]["test"][0], theirs.scores["id"]["test"][0])
    np.testing.assert_array_equal(ours.scores["id"]["test"][2], theirs.scores["id"]["test"][2])


@pytest.fixture(scope="module")
def expected(net: nn.Module, checkout: Checkout) -> Any:
    """What this package's own evaluation gives, for all detectors in one pass."""
    return evaluate(net, BENCHMARK, NEW, data_root=checkout.data, device="cpu", batch_size=BATCH, progress=False)


@pytest.mark.parametrize("name", FITTED)
def test_the_evaluator_gives_what_evaluate_gives(name: str, net: nn.Module, checkout: Checkout, expected: Any) -> None:
    host = evaluator(net, checkout, name)
    scores = {split.split("/")[1]: each for split, each in expected.scores[name].items()}
    for data_set, given in score(host).items():
        np.testing.assert_allclose(given, scores[data_set], rtol=1e-6, err_msg=data_set)
    chosen = next(result for result in expected.results if result.detector == name).hyperparameters
    assert chosen_hyperparameters(host.postprocessor.detector) == chosen
    assert host.postprocessor.hyperparam_search_done == bool(load_detector(name).sweep)
    row = next(r for r in expected.results if (r.detector, r.setting, r.dataset) == (name, "fsood", "nearood"))
    assert host.metrics["fsood"].loc["nearood", "AUROC"] == pytest.approx(row.auroc, abs=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_the_names_of_openood_can_be_constructed(name: str, net: nn.Module, checkout: Checkout) -> None:
    postprocessor = make_postprocessor(name, **({"K": 7} if name == "knn" else {}))
    host = evaluator(net, checkout, postprocessor=postprocessor)
    assert host.postprocessor is postprocessor
    assert len(np.unique(score(host)["tin"])) == OTHERS


@pytest.mark.parametrize("name", ["klm", "react"])
def test_one_that_reads_only_validation_images(name: str, net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    host = evaluator(net, checkout, postprocessor=make_postprocessor(name))
    forward, validation = training_pass.features_of(net, id_loaders["val"], "fc")
    _, tested = training_pass.features_of(net, id_loaders["test"], "fc")
    detector = registry.create(name).fit(None, forward.head, validation)
    expected = detector.score(tested.features, tested.logits)
    np.testing.assert_allclose(score(host)["test"], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(PluginError, match="needs the loader of the ID validation images, 'val'"):
        set_up(name, net, {"train": id_loaders["train"]})


def test_its_hyperparameter_takes_effect_after_setup(net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    changed = set_up("react", net, id_loaders)
    changed.set_hyperparam([50])
    assert changed.detector.threshold_ == set_up("react", net, id_loaders, percentile=50).detector.threshold_
    assert changed.detector.threshold_ < set_up("react", net, id_loaders).detector.threshold_


# -------------------------------------------------------------------- setup


def test_one_pass_for_all(net: nn.Module, checkout: Checkout) -> None:
    net = copy.deepcopy(net)
    seen = calls(net)
    first = set_up("nci", net, loaders(checkout)["id"])
    passed = [*seen]
    assert sorted(passed)[-TRAIN_BATCHES:].count(BATCH) >= COUNTS["id/train"] // BATCH
    assert first.head_name == "fc"

    others = {"neco": {}, "pscore": {}, "nci_l2": {"alpha": 0.1}, "feature_norm": {}, "mds_pp": {}, "ora": {}}
    for name, hyperparameters in others.items():
        seen.clear()
        set_up(name, net, loaders(checkout)["id"], **hyperparameters)
        assert seen in ([training_pass.PROBE_ROWS], []), name  # a few images, to see that nothing changed

    seen.clear()
    with_bank = set_up("knn_l1", net, loaders(checkout)["id"])
    assert seen == passed  # the features were not kept
    assert len(with_bank.detector.training_) == COUNTS["id/train"]
    for name in ("knn", "nci"):
        seen.clear()
        set_up(name, net, loaders(checkout)["id"])
        assert seen == [training_pass.PROBE_ROWS]


def test_both_statistics_of_the_pass(net: nn.Module, checkout: Checkout) -> None:
    """Those of the features, and those of the features divided by their lengths."""
    done = training_pass.training_pass(net, loaders(checkout)["id"]["train"], with_features=True)
    features, labels = done.bank.features.double(), done.bank.labels
    for statistics, rows in (
        (done.statistics, features),
        (done.unit_statistics, features / features.norm(dim=1, keepdim=True)),
    ):
        assert statistics.num_samples == COUNTS["id/train"]
        for label in labels.unique():
            torch.testing.assert_close(statistics.means[label], rows[labels == label].mean(dim=0))
        torch.testing.assert_close(statistics.covariance, torch.cov(rows.T, correction=0))


def test_another_network_is_another_pass(net: nn.Module, checkout: Checkout) -> None:
    """The same object of loaders, the same names and shapes of weights."""
    id_loaders = loaders(checkout)["id"]
    other = network(1)
    means = [set_up("nci", each, id_loaders).detector.mean_ for each in (net, other, net)]
    assert torch.equal(means[0], means[2])
    assert not torch.allclose(means[0], means[1])


def test_a_network_changed_behind_its_weights_is_another_pass(net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    net = copy.deepcopy(net)
    first = set_up("nci", net, id_loaders).detector.mean_
    net.avgpool.register_forward_hook(lambda *arguments: arguments[-1] * 2)
    torch.testing.assert_close(set_up("nci", net, id_loaders).detector.mean_, 2 * first)


@pytest.mark.parametrize("change", ["list", "directory", "batch_size", "preprocessor", "drop_last"])
def test_another_training_set_is_another_pass(change: str, net: nn.Module, checkout: Checkout) -> None:
    net = copy.deepcopy(net)
    seen = calls(net)
    set_up("nci", net, loaders(checkout)["id"])
    passed = len(seen)
    id_loaders = loaders(
        checkout, **{"batch_size": {"batch_size": 20}, "drop_last": {"drop_last": True}}.get(change, {})
    )
    dataset = id_loaders["id"]["train"].dataset
    if change == "list":
        dataset.imglist[0] = dataset.imglist[1]
    if change == "directory":
        dataset.data_dir = f"{dataset.data_dir}./"
    if change == "preprocessor":
        dataset.preprocessor.transform.transforms[-1].mean = [0.1, 0.2, 0.3]
    set_up("nci", net, id_loaders["id"])
    assert len(seen) > passed + 1


def test_a_dataset_of_the_users_is_known_by_itself(net: nn.Module, checkout: Checkout) -> None:
    class Rows(TensorDataset):
        def __getitem__(self, index: int) -> dict[str, Any]:
            image, label = super().__getitem__(index)
            return {"data": image, "label": label}

    net = copy.deepcopy(net)
    seen = calls(net)
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10
    rows = Rows(images, labels)
    passes = []
    for dataset in (rows, rows, Rows(images, labels)):
        seen.clear()
        set_up("nci", net, {"train": DataLoader(dataset, BATCH)})
        passes.append(len(seen))
    assert passes[0] == passes[2] > passes[1] == 1


def test_setup_is_in_eval_mode_without_gradients(net: nn.Module, checkout: Checkout) -> None:
    net = copy.deepcopy(net).train()
    before = copy.deepcopy(net.state_dict())
    modes = set()
    net.register_forward_pre_hook(lambda *_: modes.add((net.training, net.bn1.training, torch.is_grad_enabled())))
    with torch.enable_grad():
        postprocessor = set_up("nci", net, loaders(checkout)["id"])
    assert modes == {(False, False, False)}
    assert not net.training  # as OpenOOD leaves it: its search runs right afterwards
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not torch.is_tensor(postprocessor.detector.mean_.grad_fn)


def test_any_classifier(checkout: Checkout) -> None:
    """One that knows nothing of OpenOOD: no return_feature, no fc."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.body(x))

    torch.manual_seed(0)
    host = evaluator(Plain(), checkout, "nci")
    assert host.postprocessor.head_name == "classifier.2"
    assert all(np.isfinite(scores).all() for scores in score(host).values())


def test_set_up_again_on_another_network(net: nn.Module, checkout: Checkout) -> None:
    postprocessor = evaluator(net, checkout, "nci").postprocessor
    mean = postprocessor.detector.mean_
    host = evaluator(net, checkout, postprocessor=postprocessor)
    assert host.postprocessor.detector.mean_ is mean
    other = network(1)
    again = evaluator(other, checkout, postprocessor=postprocessor)
    fresh = evaluator(other, checkout, "nci")
    np.testing.assert_array_equal(score(again)["svhn"], score(fresh)["svhn"])


@pytest.mark.parametrize("name", ["nci", "neco"])
def test_scores_before_setup(name: str, net: nn.Module) -> None:
    with pytest.raises(PluginError, match="call setup before"):
        make_postprocessor(name).postprocess(net, torch.zeros(2, 3, 32, 32))


def test_setup_without_training_images(net: nn.Module) -> None:
    with pytest.raises(PluginError, match="needs the loader of the training images"):
        set_up("nci", net, {})
    assert set_up("feature_norm", net, {}).setup_flag


# -------------------------------------------------------------------- hyper-parameters


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("neco", {"dim": 0.5}, {"dim": 4}), ("knn_l1", {"K": 3}, {"K": 20, "alpha": 0.1}), ("nci", {}, {"alpha": 0.1})],
)
def test_hyperparameters_take_effect_after_setup(
    name: str, first: dict[str, Any], second: dict[str, Any], net: nn.Module, checkout: Checkout
) -> None:
    id_loaders = loaders(checkout)["id"]
    changed = set_up(name, net, id_loaders, **first)
    fresh = set_up(name, net, id_loaders, **second)
    training_pass.forget()
    set_up("nci", network(1), id_loaders)  # the last pass is of another network now
    images = next(iter(id_loaders["test"]))["data"]
    before = changed.postprocess(net, images)[1]
    changed.set_hyperparam(list(fresh.detector.get_hyperparameters().values()))
    after = changed.postprocess(net, images)[1]
    assert not torch.equal(before, after)
    assert torch.equal(after, fresh.postprocess(net, images)[1])


def test_hyperparameters_of_the_sweep() -> None:
    config = Config({"postprocessor": {"name": "neco", "APS_mode": True}})
    config = Config(config, {"postprocessor": {"postprocessor_sweep": {"scale_list": [True, False], "dim_list": [2]}}})
    postprocessor = DetectorPostprocessor(config)
    postprocessor.set_hyperparam([False, 2])
    assert postprocessor.get_hyperparam() == [False, 2]
    assert (postprocessor.detector.scale, postprocessor.detector.dim) == (False, 2)
    with pytest.raises(PluginError, match="takes a list of scale, dim"):
        postprocessor.set_hyperparam([2])


def test_a_search_of_what_fit_reads(net: nn.Module, checkout: Checkout, tmp_path: Path) -> None:
    """The same as this package's own search, which fits again for every value."""
    path = tmp_path / "postprocessors" / "neco.yml"
    path.parent.mkdir()
    path.write_text(
        "postprocessor:\n  name: neco\n  APS_mode: True\n"
        "  postprocessor_sweep:\n    dim_list: [1, 3, 0.9]\n    scale_list: [True, False]\n",
        encoding="utf-8",
    )
    host = evaluator(net, checkout, "neco", config_root=str(tmp_path))
    ours = evaluate(net, BENCHMARK, str(path), data_root=checkout.data, device="cpu", batch_size=BATCH, progress=False)
    chosen = ours.results[0].hyperparameters
    assert host.postprocessor.get_hyperparam() == [chosen["dim"], chosen["scale"]]
    np.testing.assert_allclose(score(host)["svhn"], ours.scores["neco"]["far/svhn"], rtol=1e-6)


# -------------------------------------------------------------------- pickles


def test_too_few_training_images_are_refused_here_too(net: nn.Module, checkout: Checkout, expected: Any) -> None:
    with pytest.raises(PluginError, match="its two distances cannot be compared") as refused:
        set_up("rmds_pp", net, loaders(checkout)["id"])
    assert expected.failures["rmds_pp"] == str(refused.value)


@pytest.mark.parametrize("name", FITTED)
def test_pickle_round_trip(name: str, net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    postprocessor = set_up(name, net, id_loaders)
    content = pickle.dumps(postprocessor)
    learned = [value for value in vars(postprocessor.detector).values() if torch.is_tensor(value)]
    for split in [value for value in vars(postprocessor.detector).values() if isinstance(value, FeatureSplit)]:
        learned += [tensor for shard in split.shards for tensor in vars(shard).values()]
    assert len(content) < 64_000 + (0 if name == "nci" else sum(each.nbytes for each in learned))
    again = pickle.loads(content)
    images = next(iter(id_loaders["test"]))["data"]
    for mine, theirs in zip(again.postprocess(net, images), postprocessor.postprocess(net, images)):
        assert torch.equal(mine, theirs)
    assert (again.setup_flag, again.args_dict) == (True, postprocessor.args_dict)


def test_a_pickle_asks_for_setup_where_it_must_fit_again(net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    images = next(iter(id_loaders["test"]))["data"]
    again = pickle.loads(pickle.dumps(set_up("neco", net, id_loaders)))
    again.set_hyperparam([3, True, "auto"])
    with pytest.raises(PluginError, match="call setup"):
        again.postprocess(net, images)
    again.setup(net, id_loaders, None)
    expected = set_up("neco", net, id_loaders, dim=3).postprocess(net, images)[1]
    assert torch.equal(again.postprocess(net, images)[1], expected)


def test_unpicklable_transforms_are_no_matter(net: nn.Module, checkout: Checkout) -> None:
    id_loaders = loaders(checkout)["id"]
    transform = id_loaders["train"].dataset.transform_image
    id_loaders["train"].dataset.transform_image = lambda image: transform(image)
    expected = set_up("nci", net, loaders(checkout)["id"]).detector.mean_
    torch.testing.assert_close(set_up("nci", net, id_loaders).detector.mean_, expected)
