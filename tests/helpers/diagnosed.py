"""The diagnosis of training features that are given."""

from __future__ import annotations

import torch

from nci_plugin import Benchmark, Features
from nci_plugin.api import resolve_detectors
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.diagnosis.network import diagnose_network
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.networks.head import LinearHead
from nci_plugin.report.diagnosis_files import Stored


def diagnosed(features, labels, head) -> Stored:
    """The diagnosis of these training features; the test and OOD sets are noise about them."""
    width, head = features.shape[1], LinearHead(head.weight.float(), head.bias.float())

    def noise(count: int, seed: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))

    few = slice(None, None, max(1, len(features) // 50))
    test = Features(features[few].float() + noise(len(features[few]), 1, 0.1), labels[few])
    benchmark = Benchmark.from_splits(
        "made",
        num_classes=head.num_classes,
        train=Features(features.float(), labels),
        test=test,
        csid={"shifted": Features(test.features + 0.5, test.labels)},
        near={"first": Features(noise(30, 2), None), "second": Features(noise(40, 3, 2.0), None)},
        far={"third": Features(noise(50, 4) + 5, None)},
    )
    bank = extract(head, benchmark, {FitsOn.STATISTICS})
    evaluation = evaluate_bank(bank, benchmark, resolve_detectors(DETECTORS), "", {})
    diagnosis = diagnose_network(bank, benchmark, evaluation, "")
    scores = {name: by_split for name, by_split in evaluation.scores.items() if name in DETECTORS}
    return Stored("network", diagnosis.record, diagnosis.arrays, scores)
