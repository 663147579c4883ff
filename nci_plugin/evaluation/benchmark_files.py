"""YAML files -> benchmarks. An unknown key is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, OOD_VALIDATION, Benchmark, Source
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError, check_keys, check_known, check_name, check_number, errors_begin, shown
from nci_plugin.networks.named import check_named
from nci_plugin.parsing import config_directory, load_yaml

BUILT_IN = ("digits",)
"""Benchmarks whose images and checkpoints are made where they are missing."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""Names of benchmarks: they become the names of directories."""

MOST_CLASSES = 10**6
TEXT_OF_NO_FILE = re.compile("[\0\ud800-\udfff]")
"""What no file's name can hold: NUL, and a surrogate, which is no character."""


def benchmark_names() -> list[str]:
    return sorted(path.stem for path in (config_directory() / "benchmarks").glob("*.yml"))


def load_benchmark(name_or_path: str, preprocessing: Preprocessing | None = None) -> Benchmark:
    """A benchmark by its name, or from a YAML file of the user's.

    ``preprocessing`` takes the place of the benchmark's; data sets keep the keys of theirs.
    """
    if name_or_path.endswith((".yml", ".yaml")) or "/" in name_or_path:
        path = Path(name_or_path)
    else:
        check_known("benchmark", name_or_path, benchmark_names())
        path = config_directory() / "benchmarks" / f"{name_or_path}.yml"
    raw = load_yaml(path)
    where = f"config '{path}'"
    check_keys(where, raw, ["benchmark"], ["benchmark"])
    return parse_benchmark(raw["benchmark"], where, preprocessing)


def parse_benchmark(raw: Mapping[str, Any], where: str, preprocessing: Preprocessing | None = None) -> Benchmark:
    """A benchmark from the mapping under ``benchmark:``; the groups have the shape of OpenOOD's DATA_INFO."""
    required = ["name", "num_classes", "preprocessing", "id"]
    check_keys(where, raw, [*required, "ood", "csid", "network", "checkpoints", "built_in"], required)
    benchmark_name = _name(f"{where}: name", raw["name"])
    if not NAME.fullmatch(benchmark_name):
        raise PluginError(f"{where}: name must be letters, digits, '.', '_' and '-', got {shown(benchmark_name)}")
    check_number(f"{where}: num_classes", raw["num_classes"], above=0, whole=True, most=MOST_CLASSES)
    base = preprocessing or _preprocessing(raw["preprocessing"], f"{where}: preprocessing")
    splits: dict[str, Source] = {}
    check_keys(f"{where}: id", raw["id"], ["train", "val", "test"], ["test"])
    for name, entry in raw["id"].items():
        splits[f"id/{name}"] = _images(entry, base, f"{where}: id: {name}")
    ood = {} if raw.get("ood") is None else raw["ood"]
    check_keys(f"{where}: ood", ood, ["val", NEAR, FAR])
    if "val" in ood:
        splits[OOD_VALIDATION] = _images(ood["val"], base, f"{where}: ood: val")
    for group, entries in ((CSID, raw.get("csid")), (NEAR, ood.get(NEAR)), (FAR, ood.get(FAR))):
        splits.update(_group(group, entries or {"datasets": []}, base, where))
    network = raw.get("network") or {}
    check_keys(f"{where}: network", network, ["factory", "arguments"], ["factory"] if network else [])
    arguments = network.get("arguments") or {}
    for key in ("checkpoints", "built_in"):
        _check_text(f"{where}: {key}", raw.get(key, "absent"))
    if "built_in" in raw:
        check_known(f"value of built_in in {where}", raw["built_in"], BUILT_IN)
        check_name(f"{where}: checkpoints", raw.get("checkpoints"))  # they are written, and nowhere else
    return Benchmark(
        name=benchmark_name,
        num_classes=raw["num_classes"],
        splits=splits,
        preprocessing=base,
        network=check_named(f"{where}: network", network["factory"], arguments) if network else None,
        network_arguments=arguments,
        checkpoints=raw.get("checkpoints"),
        built_in=raw.get("built_in"),
    )


def _group(group: str, entries: Any, preprocessing: Preprocessing, where: str) -> dict[str, Source]:
    where = f"{where}: {group}"
    if not isinstance(entries, Mapping) or not isinstance(entries.get("datasets"), list):
        raise PluginError(f"{where}: needs a list 'datasets' and one entry for each name in it, as OpenOOD's DATA_INFO")
    # An entry that no list names is checked too: OpenOOD describes sets beyond those that it evaluates.
    described = {
        _name(where, name): _images(entry, preprocessing, f"{where}: {name}")
        for name, entry in entries.items()
        if name != "datasets"
    }
    names = [_name(f"{where}: datasets", name) for name in entries["datasets"]]
    for name in names:
        check_known(f"data set in {where}", name, described)
    return {f"{group}/{name}": described[name] for name in names}


def _name(where: str, raw: Any) -> str:
    """A name that may become a path's; YAML reads one of digits as a number."""
    return check_name(where, str(raw) if type(raw) is int and abs(raw) < 10**18 else raw)


def _images(raw: Any, preprocessing: Preprocessing, where: str) -> Source:
    """The image list of an entry, or its tar files."""
    keys = ["shards"] if isinstance(raw, Mapping) and "shards" in raw else ["data_dir", "imglist_path"]
    check_keys(where, raw, [*keys, "preprocessing"], keys)
    if raw.get("preprocessing") is not None:
        own = raw["preprocessing"]
        check_keys(f"{where}: preprocessing", own, [field.name for field in fields(Preprocessing)])
        preprocessing = _preprocessing({**asdict(preprocessing), **own}, f"{where}: preprocessing")
    if "shards" in raw:
        return _shards(raw["shards"], preprocessing, where)
    if raw["data_dir"] != "":  # the data root itself, as in OpenOOD
        _check_text(f"{where}: data_dir", raw["data_dir"])
    _check_text(f"{where}: imglist_path", raw["imglist_path"])
    return ImageList(raw["imglist_path"], raw["data_dir"], preprocessing)


def _shards(paths: Any, preprocessing: Preprocessing, where: str) -> Source:
    from nci_plugin.benchmarks.shards import ImageShards  # imports torch

    shards = ImageShards(paths, preprocessing, Path("data"))
    with errors_begin(where):
        shards.files()
    return shards


def _check_text(where: str, value: Any) -> None:
    if not isinstance(value, str) or not value or TEXT_OF_NO_FILE.search(value):
        raise PluginError(f"{where}: must be a text, got {shown(value)}")


def _preprocessing(raw: Any, where: str) -> Preprocessing:
    names = [field.name for field in fields(Preprocessing)]
    check_keys(where, raw, names, ["pre_size", "img_size", "normalization"])
    values = dict(raw)
    try:
        values["normalization"] = tuple(tuple(float(value) for value in row) for row in raw["normalization"])
    except (TypeError, ValueError, OverflowError):
        raise PluginError(
            f"{where}: normalization must be [[mean of R, G, B], [standard deviation of R, G, B]],"
            f" got {shown(raw['normalization'])}"
        ) from None
    preprocessing = Preprocessing(**values)
    preprocessing.check(where)
    preprocessing.warn_of_edges(where)
    return preprocessing
