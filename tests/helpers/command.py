"""The command line run in this process, on the tiny benchmark, and what it wrote."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

from tiny import BATCH, COUNTS, Tiny

from nci_plugin.cli.main import main


def command(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; warnings count as output."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    return code, out.getvalue(), err.getvalue() + "".join(f"{warning.message}\n" for warning in warned)


def diagnose(tiny: Tiny, *flags: str, **options: Any) -> list[str]:
    """Arguments of ``nci-ood diagnose``."""
    _, benchmark, _, _, *rest = tiny.eval(**options)
    return ["diagnose", benchmark, *flags, *rest]


def dynamics(tiny: Tiny, *paths: Path, flags: tuple[str, ...] = (), **options: Any) -> list[str]:
    """Arguments of ``nci-ood dynamics``."""
    _, benchmark, _, _, *rest = tiny.eval(ckpt_path=None, **options)
    return ["dynamics", *map(str, paths), "--benchmark", benchmark, *flags, *rest]


def read_rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def small_knn(tiny: Tiny) -> str:
    """A KNN that can live with 12 training images."""
    path = tiny.root / "knn3.yml"
    path.write_text("postprocessor: {name: knn, postprocessor_args: {K: 3}}\n")
    return str(path)


def batches(*splits: str) -> list[int]:
    """Sizes of the batches of whole splits, in the YAML file's order of the splits."""
    order = [split for split in ("test", "train", "val", "oodval", "csid", "near", "near2", "far") if split in splits]
    return [min(BATCH, COUNTS[split] - start) for split in order for start in range(0, COUNTS[split], BATCH)]


def passes_after_first(tiny: Tiny, expected: list[int]) -> list[int]:
    """The passes behind those of the first batch, on which the head is looked for and stored features are compared."""
    passes = tiny.passes()
    first = len(passes) - len(expected)
    assert 0 < first <= 3
    assert set(passes[:first]) == {BATCH}
    return passes[first:]
