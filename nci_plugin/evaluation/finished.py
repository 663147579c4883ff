"""The detectors that an interrupted run had finished, so that the same command goes on from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from nci_plugin import __version__
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.evaluation import Evaluation
from nci_plugin.evaluation.identify import method_digest
from nci_plugin.features.bank import FeatureBank
from nci_plugin.files import digest, read_text, write_atomically

FILE = "finished.json"
LIBRARIES = ("numpy", "pytorch-ood", "scikit-learn", "scipy", "torch")
FILE_BYTES = 2**20
PACKAGE = Path(__file__).parents[1]


class Finished:
    """The finished detectors of one network in a directory, each with a digest of all that its scores came from.

    The file is there from the first of them to the end of the command, so only an interrupted one leaves it: a command
    that ended evaluates everything again when it is repeated.
    """

    def __init__(self, directory: ResultsDirectory, seed: str, bank: FeatureBank) -> None:
        self._directory, self._seed, self._bank = directory, seed, bank
        self._package = digest(*(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))))
        self._file, self._digests = directory.path / seed / FILE, {}
        with suppress(PluginError, OSError, ValueError, TypeError, RecursionError):  # damaged: nothing was finished
            self._digests = dict(json.loads(read_text(self._file, "finished detectors", FILE_BYTES, "remove it")))

    def kept(self, setups: Sequence[Contestant]) -> dict[str, Evaluation]:
        """By name what was stored of those that were finished, by the same code with the same values and features.

        The others count as finished no more: what is stored of them may be written again from now on.
        """
        finished = [setup.name for setup in setups if self._digests.get(setup.name) == self._digest(setup)]
        results = [each for each in self._directory.read() if each.seed == self._seed] if finished else []
        found: dict[str, Evaluation] = {}
        for name in finished:
            rows = [each for each in results if each.detector == name]
            with suppress(PluginError):  # damaged, as by a power cut
                scores = self._directory.scores(name, self._seed)
                if rows and scores is not None:
                    found[name] = Evaluation(rows, {name: scores})
        if len(found) < len(self._digests):
            self._digests = {name: self._digests[name] for name in found}
            self._write()
        return found

    def add(self, setup: Contestant) -> None:
        """One more is finished, and stored."""
        self._digests[setup.name] = self._digest(setup)
        self._write()

    def _write(self) -> None:
        write_atomically(self._file, json.dumps(self._digests), durable=False)

    def _digest(self, setup: Contestant) -> str:
        provenance = {key: value for key, value in self._bank.provenance.items() if key != "extraction_seconds"}
        versions = [__version__, self._package, *map(version, LIBRARIES), torch.get_num_threads()]
        return digest(json.dumps([provenance, versions], sort_keys=True, default=repr), method_digest(setup))


def forget(output: Path, seeds: Sequence[str]) -> None:
    """The command has ended: the next one evaluates everything again."""
    for seed in seeds:
        (output / seed / FILE).unlink(missing_ok=True)
