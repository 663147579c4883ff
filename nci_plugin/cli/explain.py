"""``nci-ood explain``: one image's class, collapse scores and verdict, by each network of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin import api
from nci_plugin.benchmarks.benchmark import TRAIN, VALIDATION
from nci_plugin.benchmarks.decoding import read_image, to_rgb
from nci_plugin.benchmarks.folder import class_names
from nci_plugin.cli.commands import Explain
from nci_plugin.cli.network import Job
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.diagnosis.image import Explanation, check_kept, explain_image
from nci_plugin.evaluation.evaluate import training_needed
from nci_plugin.evaluation.search import detector_of
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.files import locked
from nci_plugin.report.names import display_names
from nci_plugin.report.terminal import grouped, say


def run(options: Explain) -> int:
    job = Job.of(options.benchmark, options.network, options.data, options.passing)
    check_kept("--tpr", options.tpr)
    setups = api.resolve_detectors(options.detectors or DETECTORS)
    for setup in setups:
        detector_of(setup)  # raises on one that scores no single image
    read_image(options.image, to_rgb, "pass an image file")  # what it is is known before anything long starts
    inputs = job.find_one(options.benchmark)
    for name in (VALIDATION, TRAIN):
        inputs.benchmark.check_has(name)
    splits = {name: inputs.splits[name] for name in (VALIDATION, TRAIN)}
    image = read_image(options.image, splits[VALIDATION].source.preprocessing, "pass an image file")[None]
    networks = job.load(inputs)
    needs = training_needed(setups) | {FitsOn.STATISTICS}
    left_out: dict[str, None] = {}
    with locked(networks.output):
        for seed, network in networks.by_seed.items():
            bank = extract(network, inputs.benchmark, needs, networks.extraction_options(seed), splits)
            explanation = explain_image(image, bank, setups, options.tpr)
            title = f"{options.image}, {seed or inputs.checkpoints[seed]}"
            _print(title, explanation, options.tpr, class_names(splits[TRAIN]))
            left_out |= {f"{name}: left out: {reason}": None for name, reason in explanation.not_scored.items()}
    for text in left_out:
        say(text)
    return 0


def _print(title: str, explanation: Explanation, tpr: float, names: Sequence[str]) -> None:
    distance = explanation.predicted_distance
    of_predicted = "without training samples" if distance is None else f"its mean at distance {distance:.4g}"
    rows = [["score (larger = ID)", "value", "percentile", f"threshold at TPR {100 * tpr:g} %", "verdict"]]
    for score in explanation.scores:
        numbers = (f"{score.value:.4g}", f"{score.percentile:.1f}", f"{score.threshold:.4g}")
        rows.append([score.detector, *numbers, "ID" if score.is_id else "OOD"])
    called_id = sum(score.is_id for score in explanation.scores)
    say(f"\n{title}")
    predicted, nearest = (names[label] if names else label for label in (explanation.predicted, explanation.nearest))
    say(f"predicted class: {predicted} (softmax {explanation.probability:.4f}), {of_predicted}")
    say(f"nearest class mean: {nearest}, at distance {explanation.nearest_distance:.4g} (feature units)")
    first, *columns = zip(*rows)
    print(grouped(first, [("", column) for column in columns], display_names(first[1:])))
    say(
        f"{called_id} of {len(rows) - 1} scores call it ID at the threshold that keeps {100 * tpr:g} % of"
        f" {explanation.num_validation} ID validation samples"
    )
