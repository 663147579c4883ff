"""Inputs that a fresh pair of eyes tried: a right value, or one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_command_line import command
from tiny import Tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Tiny(tmp_path)


# -------------------------------------------------------------------- results


def _knn(tiny: Tiny, neighbours: int) -> str:
    path = tiny.root / f"knn{neighbours}.yml"
    path.write_text(f"postprocessor: {{name: knn, APS_mode: False, postprocessor_args: {{K: {neighbours}}}}}\n")
    return str(path)


def test_seeds_of_other_hyperparameters_make_no_mean(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with another K that ends after s0 leaves the rows of s1 as they were."""
    from nci_plugin.report.files import ResultsDirectory

    seeds = tiny.root / "seeds"
    for seed in range(2):
        tiny.save_checkpoint(seeds / f"s{seed}" / "best.ckpt", seed=seed)
    assert command(tiny.eval(_knn(tiny, 1), "msp", ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0
    add = ResultsDirectory.add

    def interrupted(self: ResultsDirectory, evaluation: object, seed: str) -> None:
        if seed == "s1":
            raise KeyboardInterrupt
        add(self, evaluation, seed)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ResultsDirectory, "add", interrupted)
        assert command(tiny.eval(_knn(tiny, 5), ckpt_path=seeds))[0] != 0
    for arguments in (["report"], ["leaderboard", "rank"], ["compare"]):
        code, _, error = command([*arguments, str(tiny.output)])
        assert (code, "'knn' was evaluated with other hyper-parameters for s1 than for s0" in error) == (2, True)
    assert command(tiny.eval(_knn(tiny, 5), ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0
