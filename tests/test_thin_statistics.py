"""Thin training statistics are said, in rows and in words, and detectors that cannot stand on them are named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from command import command
from tiny import Tiny

from nci_plugin import Benchmark, Features, api, evaluate
from nci_plugin.adapters import pytorch_ood
from nci_plugin.checks import PluginError
from nci_plugin.detectors.mahalanobis import MDSPlusPlus, RMDSPlusPlus
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.thin import STATISTICS, counted, sentence
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead

CLASSES, WIDTH = 12, 8


def thin_benchmark(present: int, per_class: int) -> tuple[LinearHead, Benchmark]:
    """Features of ``present`` of 12 classes in 8 dimensions, ``per_class`` training samples each."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, WIDTH, generator=generator) * 3

    def rows(labels: torch.Tensor) -> Features:
        return Features(means[labels] + torch.randn(len(labels), WIDTH, generator=generator), labels)

    train = rows(torch.arange(present).repeat_interleave(per_class))
    val, test = (rows(torch.arange(CLASSES).repeat_interleave(10)) for _ in range(2))
    far = Features(torch.randn(50, WIDTH, generator=generator))
    splits = {"train": train, "val": val, "test": test, "near": {}, "far": {"far": far}}
    return LinearHead(means, torch.zeros(CLASSES)), Benchmark.from_splits("thin", CLASSES, **splits)


def test_it_is_in_the_rows_and_in_words():
    evaluation = evaluate(*thin_benchmark(9, 1), ["pscore", "nci_gated"], progress=False)
    said = evaluation.results[0].provenance[STATISTICS]
    assert said == {
        "classes": CLASSES,
        "features": WIDTH,
        "classes_without_image": 3,
        "classes_with_one_image": 9,
        "within_rank": 0,
    }
    assert evaluation.thin == (
        "3 of 12 classes have no training image; 9 of 12 classes have a single one; the covariance within classes has"
        " rank 0 in 8 dimensions; there are more classes (12) than features (8)"
    )
    assert not evaluation.failures


def test_nothing_is_said_of_what_is_enough():
    assert sentence({}) == ""
    assert sentence(counted(torch.arange(3).repeat(20), 3)) == ""


def test_detectors_that_cannot_stand_on_it_are_failures_with_a_reason():
    names = ["mds_pp", "rmds_pp", "pytorch_ood:mahalanobis", "pytorch_ood:rmd", "pytorch_ood:she"]
    failures = evaluate(*thin_benchmark(9, 1), names, progress=False).failures
    assert set(failures) == set(names)
    assert "needs a class of two samples" in failures["mds_pp"]
    assert all("3 of 12 have none" in failures[name] for name in names[2:])


def test_a_relative_distance_of_two_spaces_is_refused():
    """A class of two samples, and four of one: they vary within classes in 1 direction, over all in 5."""
    rows = unit_rows(torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0)))
    head = LinearHead(torch.randn(5, WIDTH), torch.zeros(5))
    statistics = ClassStatistics(5, WIDTH).update(rows, torch.tensor([0, 0, 1, 2, 3, 4]))
    MDSPlusPlus().fit(statistics, head)
    with pytest.raises(PluginError, match="in 1 directions and over all samples in 5"):
        RMDSPlusPlus().fit(statistics, head)


def test_all_leaves_out_what_the_classes_and_the_memory_do_not_allow():
    setups = api.resolve_detectors("all")
    kept, left_out = api.affordable(setups, "all", 10**6)
    assert set(left_out) == {"pytorch_ood:gmm", "pytorch_ood:openmax"}
    assert len(kept) == len(setups) - 2
    named = ["all", "pytorch_ood:openmax"]
    assert "pytorch_ood:openmax" not in api.affordable(api.resolve_detectors(named), named, 10**6)[1]
    assert api.affordable(setups, "all", 2) == (setups, {})
    assert pytorch_ood.too_large(1000, 2**30)["pytorch_ood:gmm"].startswith("takes about 22.5 GB for 1000 classes")


def test_names_can_be_left_out():
    assert [setup.name for setup in api.resolve_detectors(["msp", "nci", "ebo"], ["nci"])] == ["msp", "ebo"]
    with pytest.raises(PluginError, match="none is left"):
        api.resolve_detectors(["msp"], ["msp"])
    with pytest.raises(PluginError, match="unknown detector to leave out 'mls'"):
        api.resolve_detectors(["msp"], ["mls"])


def test_the_command_says_it(tmp_path):
    tiny = Tiny(tmp_path)
    code, out, _ = command([*tiny.eval("msp", "pscore"), "--without", "msp"])
    assert code == 0
    assert "training statistics: " in out
    assert "pscore" in out
    assert "msp" not in out


def test_seeds_of_two_versions_of_a_formula_are_refused(tmp_path):
    """Seeds whose rows were written before and after a detector's formula changed are not put into one mean."""
    head, benchmark = thin_benchmark(12, 5)
    result = evaluate(head, benchmark, ["nci_auto"], progress=False).results[0]
    assert result.provenance["formula"] == 2
    rows = [
        dataclasses.replace(result, seed=seed, provenance={**result.provenance, "formula": formula})
        for seed, formula in (("s0", 2), ("s1", 1))
    ]
    with pytest.raises(PluginError, match="another version of its formula for s0 than for s1"):
        ResultsDirectory(tmp_path)._check_settings(rows)
