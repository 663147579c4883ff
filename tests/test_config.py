"""YAML files: the shipped ones say what OpenOOD v1.5 says, a user's is checked to the last key."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml

import nci_plugin
from nci_plugin.adapters import pytorch_ood
from nci_plugin.api import resolve_detectors
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError
from nci_plugin.config import (
    benchmark_names,
    config_directory,
    describe_config,
    detector_names,
    load_benchmark,
    load_detector,
    load_yaml,
)
from nci_plugin.detectors import registry

CIFAR_FAR = ["mnist", "svhn", "texture", "places365"]
IMAGENET_FAR = ["inaturalist", "textures", "openimage_o"]

# Groups of OpenOOD v1.5's DATA_INFO, written out.
OFFICIAL = {
    "cifar10": (10, ["cifar10c"], ["cifar100", "tin"], CIFAR_FAR),
    "cifar100": (100, [], ["cifar10", "tin"], CIFAR_FAR),
    "imagenet200": (
        200,
        ["imagenet_v2", "imagenet_c", "imagenet_r"],
        ["ssb_hard", "ninco"],
        IMAGENET_FAR,
    ),
    "imagenet": (
        1000,
        ["imagenet_v2", "imagenet_c", "imagenet_r", "imagenet_es"],
        ["ssb_hard", "ninco"],
        IMAGENET_FAR,
    ),
}

# The OOD sets of the papers' own suites, written out: ID set, data sets.
PAPERS = {
    "nci_cifar10": ("cifar10", ["svhn", "isun", "places365", "texture"]),
    "nci_imagenet": ("imagenet", ["inaturalist", "sun", "places365", "textures"]),
    "neco_cifar10": ("cifar10", ["cifar100", "svhn"]),
    "neco_cifar100": ("cifar100", ["cifar10", "svhn"]),
    "neco_imagenet": ("imagenet", ["imagenet_o", "textures", "inaturalist", "sun", "places365"]),
}
LISTS = {
    ("cifar10", "ood/val"): "val_tin",
    ("cifar100", "ood/val"): "val_tin",
    ("imagenet200", "ood/val"): "val_openimage_o",
    ("imagenet", "ood/val"): "val_openimage_o",
    ("imagenet200", "csid/imagenet_v2"): "test_imagenet200_v2",
    ("imagenet200", "csid/imagenet_c"): "test_imagenet200_c",
    ("imagenet200", "csid/imagenet_r"): "test_imagenet200_r",
}
"""Lists whose name is not test_<data set>."""

PREPROCESSING = {
    "cifar10": (32, 32, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    "cifar100": (32, 32, ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
    "imagenet200": (256, 224, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    "imagenet": (256, 224, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
}
CHECKPOINTS = {
    "cifar10": "cifar10_resnet18_32x32_base_e100_lr0.1_default",
    "cifar100": "cifar100_resnet18_32x32_base_e100_lr0.1_default",
    "imagenet200": "imagenet200_resnet18_224x224_base_e90_lr0.1_default",
    "imagenet": "pretrained_weights/resnet50_imagenet1k_v1.pth",
}


# -------------------------------------------------------------------- shipped files


def test_every_shipped_file_is_known_by_its_name_and_loads():
    directory = config_directory()
    assert {path.name for path in directory.iterdir() if path.suffix in (".yml", ".yaml")} == set()
    assert benchmark_names() == sorted([*OFFICIAL, *PAPERS, "digits", "digits_lt"])
    for name in benchmark_names():
        assert load_benchmark(name).name == name
        assert describe_config(name)[0] == "benchmark"
    assert {path.stem for path in (directory / "postprocessors").glob("*.yml")} <= set(registry.names())
    for name in detector_names():
        assert load_detector(name).name == name
        assert describe_config(name)[0] == "detector"


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_benchmarks_have_openoods_groups(name):
    num_classes, csid, near, far = OFFICIAL[name]
    benchmark = load_benchmark(name)
    assert benchmark.num_classes == num_classes
    assert benchmark.data_sets("csid") == csid
    assert benchmark.data_sets("near") == near
    assert benchmark.data_sets("far") == far
    assert list(benchmark.splits) == [
        *("id/train", "id/val", "id/test", "ood/val"),
        *(f"csid/{each}" for each in csid),
        *(f"near/{each}" for each in near),
        *(f"far/{each}" for each in far),
    ]
    assert benchmark.checkpoints == CHECKPOINTS[name]
    assert not benchmark.built_in


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_lists_and_directories(name):
    directory = "images_largescale/" if name.startswith("imagenet") else "images_classic/"
    for split, source in load_benchmark(name).splits.items():
        group, data_set = split.split("/")
        file = f"{data_set}_{name}" if group == "id" else LISTS.get((name, split), f"test_{data_set}")
        assert source.imglist_path == f"benchmark_imglist/{name}/{file}.txt"
        assert source.data_dir == ("images_classic/" if data_set == "textures" else directory)


@pytest.mark.parametrize("name", OFFICIAL)
def test_default_preprocessing_and_imagenet_c_without_resize_and_crop(name):
    pre_size, img_size, normalization = PREPROCESSING[name]
    default = Preprocessing(pre_size, img_size, normalization, "bilinear")
    for split, source in load_benchmark(name).splits.items():
        expected = Preprocessing(None, None, normalization) if split == "csid/imagenet_c" else default
        assert source.preprocessing == expected, split


@pytest.mark.parametrize("name", PAPERS)
def test_suites_of_papers(name):
    """Their OOD sets, not grouped, beside OpenOOD's ID splits, OOD validation set and preprocessing of that ID set."""
    id_name, data_sets = PAPERS[name]
    suite, official = load_benchmark(name), load_benchmark(id_name)
    assert suite.num_classes == official.num_classes
    assert suite.checkpoints == (official.checkpoints if suite.network == official.network else None)
    shared = ["id/train", "id/val", "id/test", "ood/val"]
    assert list(suite.splits) == [*shared, *(f"far/{each}" for each in data_sets)]
    same = {
        split.split("/")[1]: source
        for split, source in official.splits.items()
        if split.split("/")[0] in ("near", "far")
    }
    for split, source in suite.splits.items():
        data_set = split.split("/")[1]
        assert source.imglist_path.startswith(f"benchmark_imglist/{id_name}/")
        assert source.preprocessing == official.preprocessing
        if split in shared:
            assert source == official.splits[split]
        elif data_set in same:
            assert source == same[data_set]
        else:
            assert source.imglist_path == f"benchmark_imglist/{id_name}/test_{data_set}.txt"


def test_the_built_in_benchmark():
    benchmark = load_benchmark("digits")
    assert benchmark.built_in
    assert (benchmark.num_classes, benchmark.network_arguments) == (6, {"width": 16})
    assert [benchmark.data_sets(group) for group in ("csid", "near", "far")] == [
        ["digits_c"],
        ["digits_unseen"],
        ["flower"],
    ]


def test_shipped_hyperparameters_and_grids():
    shipped = {path.stem: load_detector(path.stem) for path in (config_directory() / "postprocessors").iterdir()}
    grids = {name: (setup.detector.get_hyperparameters(), setup.sweep) for name, setup in shipped.items()}
    alphas = {"alpha": [1e-4, 1e-3, 1e-2, 1e-1]}
    assert grids == {
        "nci": ({"alpha": 1e-4}, alphas),
        "nci_auto": ({"alpha": "auto"}, {}),
        "nci_l2": ({"alpha": 1e-4}, alphas),
        "pscore": ({}, {}),
        "feature_norm": ({"norm": "l1"}, {}),
        "knn": ({"K": 50}, {"K": [50, 100, 200, 500, 1000]}),
        "knn_l1": ({"K": 50, "alpha": 1e-4}, alphas),
        "neco": ({"dim": 0.9, "scale": True, "max_logit": "auto", "raw_norm": "auto"}, {}),
        **{name: ({}, {}) for name in ("nc1", "nc2", "nc3", "nc4", "mds_pp", "rmds_pp", "ora", "nci_plus")},
        **{name: ({}, {}) for name in ("nci_gated", "whitened_cosine", "whitened_cosine_pp", "pscore_data_free")},
        **{name: ({}, {}) for name in ("caref", "cadref", "ras", "klm")},
        "gen": ({"gamma": 0.1, "M": 100}, {"gamma": [0.01, 0.1, 0.5, 1, 2, 5, 10], "M": [10, 50, 100, 200, 500, 1000]}),
        "fdbd": ({"distance_as_normalizer": True}, {"distance_as_normalizer": [True, False]}),
        "react": ({"percentile": 90}, {"percentile": [85, 90, 95, 99]}),
        "scale": ({"percentile": 85}, {"percentile": [65, 70, 75, 80, 85, 90, 95]}),
        "dice": ({"p": 90}, {}),
        "nnguide": ({"K": 100, "alpha": 0.01}, {}),
        "vim": ({"dim": "auto"}, {"dim": [256, 1000, "auto"]}),
        "mds_radial": ({"exponent": 1.0}, {"exponent": [0, 0.5, 1, 1.5, 2]}),
        "nc5": ({"dim": 0.9, "scale": True, "max_logit": "auto", "raw_norm": "auto"}, {}),
        "msp": ({}, {}),
        "mls": ({}, {}),
        "ebo": ({"temperature": 1}, {}),
    }


# -------------------------------------------------------------------- where files are found


def test_names_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_benchmark("cifar10").name == "cifar10"
    assert load_detector("nci").name == "nci"


def test_an_installed_package_reads_the_files_inside_it(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "nci_plugin"
    shutil.copytree(config_directory(), package / "configs")
    (package.parent / "configs" / "benchmarks").mkdir(parents=True)  # of some other package
    monkeypatch.setattr(nci_plugin, "__file__", str(package / "__init__.py"))
    assert config_directory() == package / "configs"
    assert benchmark_names() == sorted([*OFFICIAL, *PAPERS, "digits", "digits_lt"])
    assert load_detector("nci").sweep


def test_a_checkout_reads_the_files_at_its_top(tmp_path, monkeypatch):
    (tmp_path / "nci_plugin").mkdir()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(nci_plugin, "__file__", str(tmp_path / "nci_plugin" / "__init__.py"))
    assert config_directory() == tmp_path / "configs"


def test_a_package_without_its_files_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(nci_plugin, "__file__", str(tmp_path / "nci_plugin" / "__init__.py"))
    with pytest.raises(PluginError, match="configs: not found .*; install nci_plugin again"):
        config_directory()


def entry(name, **more):
    return {"data_dir": "images/", "imglist_path": f"lists/{name}.txt", **more}


NORMALIZATION = [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
VALID = {
    "name": "mine",
    "num_classes": 3,
    "preprocessing": {"pre_size": 40, "img_size": 32, "normalization": NORMALIZATION},
    "network": {"factory": "resnet18_32x32", "arguments": {"width": 2}},
    "checkpoints": "mine_net",
    "id": {"train": entry("train"), "val": entry("val"), "test": entry("test")},
    "csid": {"datasets": ["c"], "c": entry("c")},
    "ood": {
        "val": entry("oodval"),
        "near": {"datasets": ["n"], "n": entry("n"), "unused": entry("unused")},
        "far": {"datasets": ["f", "g"], "f": entry("f"), "g": entry("g")},
    },
}


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def load_changed(tmp_path, change):
    raw = copy.deepcopy(VALID)
    change(raw)
    return load_benchmark(str(write(tmp_path / "mine.yml", {"benchmark": raw})))


def test_a_benchmark_of_the_users(tmp_path):
    benchmark = load_changed(tmp_path, lambda raw: None)
    assert (benchmark.name, benchmark.num_classes, benchmark.checkpoints) == ("mine", 3, "mine_net")
    assert (benchmark.network, benchmark.network_arguments) == ("resnet18_32x32", {"width": 2})
    assert list(benchmark.splits) == [
        *("id/train", "id/val", "id/test", "ood/val"),
        *("csid/c", "near/n", "far/f", "far/g"),
    ]
    preprocessing = Preprocessing(40, 32, ((0.5,) * 3, (0.25,) * 3))
    assert benchmark.splits["far/g"] == ImageList("lists/g.txt", "images/", preprocessing)
    assert benchmark.with_data_root(Path("root")).splits["far/g"].path == Path("root/lists/g.txt")


def test_a_crop_that_adds_black_edges_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="preprocessing: pre_size 28 is below img_size 32.* black edges"):
        load_changed(tmp_path, lambda raw: raw["preprocessing"].update(pre_size=28))


def test_only_the_test_split_and_one_ood_set_are_needed(tmp_path):
    def change(raw):
        for key in ("network", "checkpoints", "csid"):
            del raw[key]
        raw["id"] = {"test": entry("test")}
        raw["ood"] = {"far": {"datasets": ["f"], "f": entry("f")}}

    benchmark = load_changed(tmp_path, change)
    assert list(benchmark.splits) == ["id/test", "far/f"]
    assert (benchmark.network, benchmark.network_arguments, benchmark.checkpoints) == (None, {}, None)


def test_a_data_sets_own_preprocessing_changes_what_it_names(tmp_path):
    other = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]

    def change(raw):
        raw["ood"]["near"]["n"]["preprocessing"] = {"pre_size": None}
        raw["ood"]["far"]["f"]["preprocessing"] = {"normalization": other, "interpolation": "bicubic"}

    splits = load_changed(tmp_path, change).splits
    default = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert splits["near/n"].preprocessing == Preprocessing(None, 32, default)
    expected = Preprocessing(40, 32, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "bicubic")
    assert splits["far/f"].preprocessing == expected
    assert repr(splits["far/f"].preprocessing) == repr(expected), "features stored under the one are found by the other"
    assert splits["far/g"].preprocessing == Preprocessing(40, 32, default)


@pytest.mark.parametrize("suffix", [".yml", ".yaml"])
def test_relative_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch, suffix):
    write(tmp_path / "a" / "configs" / f"mine{suffix}", {"benchmark": VALID})
    knn = {"name": "knn", "postprocessor_args": {"K": 3}}
    write(tmp_path / "a" / "configs" / f"det{suffix}", {"postprocessor": knn})
    (tmp_path / "b").mkdir()
    for directory, prefix in (("a", "configs/"), ("a/configs", ""), ("b", "../a/configs/"), (".", "./a/configs/")):
        monkeypatch.chdir(tmp_path / directory)
        assert load_benchmark(f"{prefix}mine{suffix}").name == "mine"
        assert load_detector(f"{prefix}det{suffix}").detector.K == 3
        assert describe_config(f"{prefix}mine{suffix}")[0] == "benchmark"
        assert describe_config(f"{prefix}det{suffix}")[0] == "detector"
    assert load_benchmark(str(tmp_path / "a" / "configs" / f"mine{suffix}")).name == "mine"


def test_a_file_named_like_a_benchmark_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cifar10.yml", {"benchmark": VALID})
    assert load_benchmark("cifar10.yml").name == "mine"
    assert load_benchmark("cifar10").name == "cifar10"


# -------------------------------------------------------------------- unknown keys


def at(*keys, value=None):
    """A change that puts ``value`` at a place in the mapping."""

    def change(raw):
        for key in keys[:-1]:
            raw = raw.setdefault(key, {})
        raw[keys[-1]] = value

    return change


UNKNOWN_KEYS = [
    (("num_clases",), "unknown key 'num_clases' (did you mean 'num_classes'?)"),
    (("preprocess",), "unknown key 'preprocess' (did you mean 'preprocessing'?)"),
    (("preprocessing", "image_size"), "preprocessing: unknown key 'image_size' (did you mean 'img_size'?)"),
    (("network", "argument"), "network: unknown key 'argument' (did you mean 'arguments'?)"),
    (("id", "tests"), "id: unknown key 'tests' (did you mean 'test'?)"),
    (("ood", "nearr"), "ood: unknown key 'nearr' (did you mean 'near'?)"),
    (("id", "test", "imglist"), "id: test: unknown key 'imglist' (did you mean 'imglist_path'?)"),
    (("ood", "val", "dir"), "ood: val: unknown key 'dir' (did you mean 'data_dir'?)"),
    (("ood", "near", "n", "label"), "near: n: unknown key 'label'"),
    (("csid", "c", "preprocessing", "pre_sise"), "c: preprocessing: unknown key 'pre_sise' (did you mean 'pre_size'?)"),
]


@pytest.mark.parametrize(("keys", "message"), UNKNOWN_KEYS)
def test_unknown_keys_at_every_level(tmp_path, keys, message):
    with pytest.raises(PluginError, match=rf"config '.*mine.yml': .*{re.escape(message)}"):
        load_changed(tmp_path, at(*keys, value=1))


def test_unknown_keys_at_the_top(tmp_path):
    path = write(tmp_path / "mine.yml", {"benchmark": VALID, "benchmarks": {}})
    with pytest.raises(PluginError, match=r"unknown key 'benchmarks' \(did you mean 'benchmark'\?\)"):
        load_benchmark(str(path))
    with pytest.raises(PluginError, match="key 'benchmark' is missing"):
        load_benchmark(str(write(path, {})))


MISSING_KEYS = [("name",), ("num_classes",), ("preprocessing",), ("id",), ("id", "test")]


@pytest.mark.parametrize("keys", [*MISSING_KEYS, ("preprocessing", "pre_size"), ("csid", "c", "imglist_path")])
def test_missing_keys_are_named(tmp_path, keys):
    def change(raw):
        for key in keys[:-1]:
            raw = raw[key]
        del raw[keys[-1]]

    with pytest.raises(PluginError, match=f"key '{keys[-1]}' is missing; add it"):
        load_changed(tmp_path, change)


def test_a_data_set_that_is_listed_but_not_described(tmp_path):
    with pytest.raises(PluginError, match=r"unknown data set in .*near 'nn' \(did you mean 'n'\?\); known: n, unused"):
        load_changed(tmp_path, at("ood", "near", "datasets", value=["nn"]))


@pytest.mark.parametrize(
    "normalization",
    [
        [[0.5, 0.5, 0.5], [0.5, 0.5]],
        [[0.5, 0.5, 0.5]],
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0]],
        [[0.5, 0.5, 0.5], [0.5, 0.5, float("nan")]],
        [["a", 0.5, 0.5], [0.5, 0.5, 0.5]],
        0.5,
        None,
    ],
)
@pytest.mark.parametrize("keys", [("preprocessing",), ("ood", "near", "n", "preprocessing")])
def test_what_is_no_normalization(tmp_path, keys, normalization):
    with pytest.raises(PluginError, match="normalization must be"):
        load_changed(tmp_path, at(*keys, "normalization", value=normalization))


# -------------------------------------------------------------------- one name, one thing


def test_a_data_set_cannot_be_near_and_far(tmp_path):
    """Results and tables know a data set by its name: the two rows would be taken for two seeds of one."""

    def change(raw):
        raw["ood"]["far"] = {"datasets": ["n"], "n": entry("n")}

    with pytest.raises(PluginError, match="'n'"):
        load_changed(tmp_path, change)


@pytest.mark.parametrize("name", ["nearood", "farood"])
def test_a_data_set_cannot_have_the_name_of_a_group_row(tmp_path, name):
    def change(raw):
        raw["ood"]["near"] = {"datasets": [name], name: entry("n")}

    with pytest.raises(PluginError, match=name):
        load_changed(tmp_path, change)


def test_a_data_set_listed_twice_is_there_once(tmp_path):
    assert load_changed(tmp_path, at("ood", "far", "datasets", value=["f", "f"])).data_sets("far") == ["f"]


def test_names_of_detectors_count_once_and_keep_their_order():
    assert [setup.name for setup in resolve_detectors(["msp", "nci", "msp", "nci"])] == ["msp", "nci"]
    assert [setup.name for setup in resolve_detectors(["all", "nci", "all"])] == detector_names()
    first, *others = [setup.name for setup in resolve_detectors(["nci", "all"])]
    assert first == "nci"
    assert others == [name for name in detector_names() if name != "nci"]
    assert set(pytorch_ood.names()) < set(detector_names())
    assert resolve_detectors([]) == []


# -------------------------------------------------------------------- detectors of the user's


def detector_file(tmp_path, **raw):
    return str(write(tmp_path / "my_detector.yml", {"postprocessor": raw}))


def test_a_detector_with_a_sweep(tmp_path):
    path = detector_file(
        tmp_path,
        name="knn_l1",
        APS_mode=True,
        postprocessor_args={"K": 7, "alpha": 0.5},
        postprocessor_sweep={"alpha_list": [0.1, 10], "K_list": [1, 2, 3]},
    )
    setup = load_detector(path)
    assert setup.name == "knn_l1"
    assert setup.detector.get_hyperparameters() == {"K": 7, "alpha": 0.5}
    assert setup.sweep == {"alpha": [0.1, 10], "K": [1, 2, 3]}
    assert list(setup.sweep) == ["alpha", "K"], "the first varies fastest"
    kind, line = describe_config(path)
    assert kind == "detector"
    assert line == "knn_l1 (K=7, alpha=0.5; search alpha in [0.1, 10], K in [1, 2, 3])"


def test_without_aps_mode_nothing_is_searched(tmp_path):
    sweep = {"alpha_list": [0.1]}
    assert load_detector(detector_file(tmp_path, name="nci", APS_mode=False, postprocessor_sweep=sweep)).sweep == {}
    assert load_detector(detector_file(tmp_path, name="nci", postprocessor_sweep=sweep)).sweep == {}
    assert load_detector(detector_file(tmp_path, name="nci")).detector.alpha == 1e-4


BAD_DETECTORS = [
    ({"name": "ncii"}, "unknown detector 'ncii' (did you mean 'nci'?)"),
    ({"name": "nci", "APS_mod": True}, "unknown key 'APS_mod' (did you mean 'APS_mode'?)"),
    ({"name": "nci", "postprocessor_args": {"alfa": 1}}, "unknown key 'alfa' (did you mean 'alpha'?)"),
    ({"name": "nci", "postprocessor_sweep": {"alpha": [1]}}, "unknown key 'alpha' (did you mean 'alpha_list'?)"),
    ({"name": "nci", "postprocessor_sweep": {"alpha_list": []}}, "alpha_list must be a list of values, got []"),
    ({"name": "nci", "postprocessor_sweep": {"alpha_list": 0.1}}, "alpha_list must be a list of values, got 0.1"),
    (
        {"name": "nci", "postprocessor_sweep": {"alpha_list": [0.1, "x"]}},
        "alpha: must be a finite number, at least 0, got 'x'",
    ),
    ({"name": "nci", "APS_mode": "yes"}, "APS_mode must be True or False, got 'yes'"),
    ({"APS_mode": True}, "key 'name' is missing"),
]


@pytest.mark.parametrize(("raw", "message"), BAD_DETECTORS)
def test_wrong_keys_and_values_of_a_detector(tmp_path, raw, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        load_detector(detector_file(tmp_path, **raw))


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: load_benchmark("cifar11"), "unknown benchmark 'cifar11' (did you mean 'cifar10'?)"),
        (lambda: load_detector("nci_l3"), "unknown detector 'nci_l3' (did you mean 'nci_l2'?)"),
        (lambda: resolve_detectors(["nci", "al"]), "unknown detector 'al'"),
        (lambda: describe_config("digit"), "unknown benchmark or detector 'digit' (did you mean 'digits'?)"),
        (lambda: load_benchmark("no/such.yml"), "config 'no/such.yml': No such file or directory"),
        (lambda: load_detector("no/such.yml"), "config 'no/such.yml': No such file or directory"),
    ],
)
def test_unknown_names(load, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        load()


def test_broken_yaml_names_file_and_line(tmp_path):
    path = tmp_path / "broken.yml"
    path.write_text("benchmark:\n  name: x\n  id: [1, 2\n  ood: 3\n")
    with pytest.raises(PluginError, match=r"config '.*broken.yml' line \d+: not valid YAML"):
        load_yaml(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PluginError, match="not a text file"):
        load_yaml(path)


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "evil.yml"
    path.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(PluginError, match="not valid YAML"):
        load_yaml(path)
