"""Result rows written by hand."""

from __future__ import annotations

from nci_plugin.evaluation.results import Result

SEEDS = ("s0", "s1", "s2")


def row(detector="nci", group="near", dataset="tin", auroc=90.0, seed="s0", setting="ood", **changes):
    values = {
        "benchmark": "cifar10",
        "fpr95": 30.0,
        "aupr_in": 80.0,
        "aupr_out": 70.0,
        "acc": 95.06,
        "n_id": 9000,
        "n_ood": 7793,
        "hyperparameters": {"alpha": 0.01},
        "chosen_by": "search of 4 values of alpha: best AUROC of id/val against ood/val, 91.00",
        "seconds": {"fit": 0.5, "search": 1.0, "score": 0.25},
        "provenance": {"weights": "0123", "data": "4567"},
        **changes,
    }
    return Result(detector=detector, setting=setting, group=group, dataset=dataset, seed=seed, auroc=auroc, **values)


def rows_of(detector, near=90.0, far=92.0, seed="s0", setting="ood", near_sets=("cifar100", "tin"), **changes):
    """The rows of one detector and network: near sets, their mean, one far set, its mean."""
    keys = {"detector": detector, "seed": seed, "setting": setting, **changes}
    return [
        *(row(group="near", dataset=name, auroc=near + i, **keys) for i, name in enumerate(near_sets)),
        row(group="near", dataset="nearood", auroc=near, **keys),
        row(group="far", dataset="mnist", auroc=far, **keys),
        row(group="far", dataset="farood", auroc=far, **keys),
    ]
