"""``nci-ood fit``: a detector beside one network, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nci_plugin.checks import PluginError, check_output_file
from nci_plugin.cli import service
from nci_plugin.cli.service_commands import Fit
from nci_plugin.deploy.choice import recommend
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.fitting import fit_together, new_detector
from nci_plugin.deploy.passing import STORE
from nci_plugin.deploy.state import check_storable
from nci_plugin.features.extract import remove_stored
from nci_plugin.files import locked

SUFFIXES = (".safetensors",)
RECOMMENDED = "recommended"
PASS = ".pass"
"""Behind the name of --output: the directory of what the pass has finished, until all files are written."""


def run(options: Fit) -> int:
    on = options.on
    outputs = _outputs(options)
    for name, output in outputs.items():
        if name != RECOMMENDED:
            check_storable(new_detector(name))
        check_output_file("--output", output, SUFFIXES)
        for source in (on.network.ckpt_path, Path(on.images), on.val):
            if source is not None and output.exists() and source.exists() and output.samefile(source):
                raise PluginError(
                    f"--output '{output}': is an input of this command, which it would replace; name another"
                )
    names = service.class_names(options.class_names)
    served = service.find(on, names)
    passed = options.output.with_name(options.output.name + PASS)
    settings: dict[str, Any] = {
        "preprocessing": served.steps,
        "class_names": names,
        "tpr": options.tpr,
        "by_class": options.by_class,
        "seed": options.seed,
        "bank_rows": options.bank_rows,
        "batch_size": on.passing.batch_size,
        "workers": served.workers,
        "head": on.network.head,
        "store": passed,
    }
    with locked(passed):
        try:
            for output, detector in _fitted(outputs, served, settings).items():
                detector.save(output)
                _say(detector, output, options.by_class)
        except BaseException:  # of whatever kind: it is only told where the work is, and goes on
            if (passed / STORE).is_dir():
                print(f"what has passed is kept in '{passed}' for the next run; remove it if there will be none")
            raise
        remove_stored(passed / STORE)
    return 0


def _fitted(
    outputs: Mapping[str, Path], served: service.Served, settings: Mapping[str, Any]
) -> dict[Path, OODDetector]:
    """The detectors by the file that each is to be written to, fitted together."""
    detectors: dict[Path, OODDetector] = {}
    for name, output in outputs.items():
        detectors[output] = OODDetector(name, **settings)
        if name == RECOMMENDED:
            found = recommend(served.model, served.train, served.validation, like=detectors[output])
            print(found)
            detectors[output] = found.detector
    print(fit_together(list(detectors.values()), served.model, served.train, served.validation))
    return detectors


def _say(detector: OODDetector, output: Path, by_class: bool) -> None:
    print(detector)
    for group, threshold in detector.thresholds().items() if by_class else [("", detector.threshold())]:
        print(f"threshold{f' of {group}' if group else ''}: {threshold}")
    print(f"written to {output}")


def _outputs(options: Fit) -> dict[str, Path]:
    """The file of each detector: of several the file's name with the detector's behind."""
    output, names = options.output, list(dict.fromkeys(options.detectors))
    if len(names) == 1:
        return {names[0]: output}
    stems = {name: Path(name).stem.replace(":", "_") for name in names}
    paths = {name: output.with_name(f"{output.stem}_{stem}{output.suffix}") for name, stem in stems.items()}
    if len(set(paths.values())) < len(names):
        raise PluginError("--detectors: two of them have one name; fit them one after the other, with an --output each")
    return paths
