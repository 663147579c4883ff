"""`evaluate`: the whole way from a network and a benchmark to Results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Union

import torch
from torch import nn

from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.checks import PluginError, check_known, check_row_name, shown
from nci_plugin.config import DEFAULT_DETECTORS, detector_names, load_benchmark, load_detector
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.evaluate import Evaluation, evaluate_bank, training_needed
from nci_plugin.evaluation.finished import Finished, forget
from nci_plugin.evaluation.identify import data_identity, network_identity
from nci_plugin.evaluation.results import check_file_names
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions, check_amp, resolve_device
from nci_plugin.features.processes import ALONE, Processes
from nci_plugin.machine import free_memory
from nci_plugin.networks.factory import import_named
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import check_weights

DetectorLike = Union[str, Detector, type[Detector], Contestant]

CLASS = "FILE.py:CLASS or package.module:CLASS"


def evaluate(
    network: nn.Module | LinearHead,
    benchmark: str | Path | Benchmark,
    detectors: DetectorLike | Sequence[DetectorLike] = (DEFAULT_DETECTORS,),
    *,
    data_root: str | Path = "data",
    output: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 200,
    workers: int = 0,
    head: str | None = None,
    progress: bool = True,
    amp: str = "none",
    processes: Processes = ALONE,
) -> Evaluation:
    """Score every detector on every split of a benchmark, from one forward pass over its images.

    Args:
        network: any classifier whose last layer is linear; a LinearHead or nn.Linear if all splits are features.
        benchmark: a name (``nci-ood list``), a YAML file, or a `Benchmark` of your own, whose splits are image lists,
            folders, lists of images, torch Datasets, DataLoaders or `Features`.
        detectors: names (``all`` = every one of this package and of pytorch-ood, but those that the classes and the
            free memory do not allow; ``openood:knn`` is OpenOOD's own, ``openood:all`` all of those), YAML files,
            `Detector` objects or classes (their hyper-parameters stay fixed), their ``FILE.py:CLASS``, or
            `DetectorSetup` objects (with a sweep, or a name of their own).
        data_root: directory that image lists are relative to; ``digits`` is written there where it is not complete.
        output: directory for results, scores and stored features; None keeps everything in memory.
        device: ``auto`` (cuda, else mps, else cpu) or a torch device.
        batch_size, workers: of the image loader; the scores of an image may change with the batch size by rounding.
        head: name of the last linear layer, where it is not found by itself.
        progress: show a progress bar on a terminal.
        amp: ``bf16`` or ``fp16`` passes the images under torch.autocast (bf16 on a CPU); each result's provenance then
            says how far its detector's scores moved against float32 on the first batch of each split.
        processes: those that torchrun started, as `nci_plugin.features.processes.joined` gives them; all must call
            this, and the first has the Evaluation. Without an ``output`` each holds all features that are kept.

    Returns:
        An Evaluation: ``results`` (metrics in percent), ``scores[detector][split]`` (larger = ID) and ``failures``.

    Raises PluginError on input that cannot be used, before the pass starts wherever it can be known.
    """
    if not isinstance(network, LinearHead):
        check_weights(network)
    detectors = _listed(detectors)
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(str(benchmark))
    benchmark = benchmark.with_data_root(Path(data_root))
    if benchmark.built_in is not None:
        write_digits(Path(data_root))
    setups, left_out = affordable(resolve_detectors(detectors), detectors, benchmark.num_classes, processes)
    benchmark.check_has_ood()
    splits = open_splits(benchmark, progress and processes.is_first)
    directory = None if output is None else ResultsDirectory(Path(output))
    store = None if directory is None else features_directory(directory.path, "")
    identity: dict[str, Any] = network_identity(network, amp)

    def begin() -> None:
        if directory is not None:
            with processes.in_turn():
                identity.update(data_identity(splits, directory.digests, progress and processes.is_first))
                directory.open({"": identity})

    on = resolve_device(device)
    check_amp(amp, on)
    device = str(processes.device(on))
    options = ExtractionOptions(
        device, batch_size, workers, head, store, progress, processes=processes, amp=amp, begin=begin
    )
    with nullcontext() if directory is None else processes.locked(directory.path):
        evaluation = run_network(network, benchmark, setups, splits, options, lambda: identity, directory, seed="")
        evaluation.failures |= {
            name: f"left out of '{DEFAULT_DETECTORS}': {reason}" for name, reason in left_out.items()
        }
        if directory is not None and processes.is_first:
            from nci_plugin.report.figures import draw_run  # imports matplotlib

            directory.write_tables(evaluation.results)
            draw_run(directory, evaluation.results)
            forget(directory.path, [""])
    return evaluation


def run_network(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    setups: Sequence[Contestant],
    splits: Mapping[str, Any],
    options: ExtractionOptions,
    provenance: Callable[[], Mapping[str, Any]],
    directory: ResultsDirectory | None,
    seed: str,
) -> Evaluation:
    """Extract, evaluate and store one network's part of a run; all processes take part, the first has the Evaluation.

    ``provenance`` is asked for after the pass.
    """
    needed = training_needed(setups)
    if TRAIN not in splits and any(setup.fits_on is FitsOn.NOTHING for setup in setups):
        needed = frozenset()  # those that fit become failures, the others are scored
    bank = extract(network, benchmark, needed, options, splits)
    if directory is None:
        told = provenance() if options.processes.is_first else None
        return evaluate_bank(bank, benchmark, setups, seed, told, progress=options.progress)
    if not options.processes.is_first:
        names = _told_kept(setups, {}, options.processes)
        return evaluate_bank(bank, benchmark, [setup for setup in setups if setup.name not in names])
    directory.begin(bank, seed)
    check_file_names([*directory.detectors, *(setup.name for setup in setups)])
    finished = Finished(directory, seed, bank)
    kept = finished.kept(setups)
    _told_kept(setups, kept, options.processes)
    if kept and options.tell:
        options.tell(f"finished by the run that was interrupted: {', '.join(kept)}")

    def add(setup: Contestant, part: Evaluation) -> None:
        directory.add(part, seed)
        finished.add(setup)

    return evaluate_bank(bank, benchmark, setups, seed, provenance(), add, options.progress, kept)


def _told_kept(setups: Sequence[Contestant], kept: Collection[str], processes: Processes) -> set[str]:
    """What the first process has kept of earlier work, which no process does again."""
    flags = torch.tensor([setup.name in kept for setup in setups])
    first = processes.together(lambda: {"kept": flags} if processes.is_first else {})[0]["kept"]
    return {setup.name for setup, flag in zip(setups, first) if flag}


def features_directory(output: Path, seed: str) -> Path:
    """Where the features of one seed's network are stored."""
    return output / seed / "features"


def resolve_detectors(
    detectors: DetectorLike | Sequence[DetectorLike], without: Sequence[str] = ()
) -> list[Contestant]:
    """Contestants of names, YAML files, classes and objects, in order; the same one given twice counts once.

    Of ``FILE.py:CLASS`` the file is run: a name must be the user's own word, never data's. Raises PluginError if one
    name is given for two classes or with different hyper-parameters, or is that of a registered detector of another
    class: the results would lie in one file. Names in ``without`` are left out; raises PluginError on one that is not
    among the others, and if none is left.
    """
    setups: dict[str, Contestant] = {}
    for detector in _listed(detectors):
        for setup in _contestants(detector):
            check_row_name("detector", setup.name)
            if setup.detector is not None:
                registry.check_name_of(setup.detector, setup.name, "detectors")
            if setups.setdefault(setup.name, setup) != setup:
                raise PluginError(
                    f"detector '{setup.name}': given twice, with different hyper-parameters or of two classes; give one"
                    " of them a name of its own: its class, a YAML file (name: mine, detector: ...), or"
                    " DetectorSetup(..., name=...)"
                )
    for name in without:
        check_known("detector to leave out", name, setups)
    setups = {name: setup for name, setup in setups.items() if name not in without}
    if without and not setups:
        raise PluginError("detectors: none is left; leave out fewer")
    check_file_names(setups)
    return list(setups.values())


def affordable(
    setups: Sequence[Contestant],
    detectors: DetectorLike | Sequence[DetectorLike],
    num_classes: int,
    processes: Processes = ALONE,
) -> tuple[list[Contestant], dict[str, str]]:
    """The setups without those of ``all`` that the classes or the free memory do not allow, and why these are left out.

    One that is asked for by name stays. All ``processes`` leave out the same: the least that is free in any decides.
    """
    names = [name for name in _listed(detectors) if isinstance(name, str)]
    if DEFAULT_DETECTORS not in names:
        return list(setups), {}
    free = processes.together(lambda: {"bytes": torch.tensor(free_memory())})
    large = pytorch_ood.too_large(num_classes, min(int(each["bytes"]) for each in free))
    left_out = {setup.name: large[setup.name] for setup in setups if setup.name in large and setup.name not in names}
    return [setup for setup in setups if setup.name not in left_out], left_out


def _listed(detectors: Any) -> list[Any]:
    """One detector, or several of any iterable, as a list; raises PluginError on what is neither."""
    if isinstance(detectors, (str, Path, Detector, type, Contestant)):
        return [detectors]
    if isinstance(detectors, Mapping) or not isinstance(detectors, Iterable):
        raise PluginError(f"detectors: must be a name or a Detector, or a list of such, got {shown(detectors)}")
    return list(detectors)


def _contestants(detector: DetectorLike) -> Sequence[Contestant]:
    if isinstance(detector, Contestant):
        return [detector]
    if isinstance(detector, (Detector, type)):
        return [DetectorSetup(registry.as_detector(detector))]
    name = str(detector)
    if name == DEFAULT_DETECTORS:
        return [load_detector(each) for each in detector_names()]
    if name.startswith(methods.PREFIX):
        return methods.load(name)
    if ":" in name and not name.startswith(pytorch_ood.PREFIX) and not name.endswith((".yml", ".yaml")):
        return [DetectorSetup(registry.as_detector(import_named(name, "detector", "class", CLASS), name))]
    return [load_detector(name)]
