"""One extraction by 1, 2 and 4 processes: seconds, speed-up, and whether the stored features are the same bytes.

    python scripts/bench/processes.py [--workload NAME] [--processes N ...]

Runs ``torchrun --nproc_per_node=N -m nci_plugin eval`` with one thread a process, each into an empty directory, and one
process with the threads that torch takes by itself. The seconds are those of the pass, as the run records them; the
whole command's, with the start of Python, are given too. With fewer cores or GPUs than processes, these share them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import parser, publish, timed
from workload import Work, add_options, opened

SHARD = re.compile(r"\d{5}-[0-9a-f]{32}\.safetensors")
THREADS = "OMP_NUM_THREADS"


def command(work: Work, output: Path, options: argparse.Namespace) -> list[str]:
    places = {"--data-root": work.directory, "--ckpt-path": work.checkpoint, "--output": output}
    loading = {"--device": options.device, "--batch-size": options.batch_size, "--workers": options.workers}
    pairs = [str(each) for pair in {**places, **loading}.items() for each in pair]
    return ["-m", "nci_plugin", "eval", str(work.yaml), *pairs, "--detectors", "nci", "knn", "msp"]


def run(work: Work, processes: int, threads: int | None, options: argparse.Namespace) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != THREADS}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), environment.get("PYTHONPATH")])
    )
    if threads is not None:
        environment[THREADS] = str(threads)
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "out"
        line = [sys.executable, *launcher, *command(work, output, options)]
        whole, done = timed(lambda: subprocess.run(line, env=environment, capture_output=True, text=True, check=False))
        if done.returncode:
            raise SystemExit(f"{processes} processes failed:\n{done.stdout}{done.stderr}")
        results = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
        return {
            "extraction_s": json.loads(results[0])["provenance"]["extraction_seconds"],
            "command_s": whole,
            "features": features_digest(output),
        }


def features_digest(output: Path) -> str:
    """One hash of the names and bytes of all shards of features below a directory."""
    shards = sorted(path for path in output.rglob("*.safetensors") if SHARD.fullmatch(path.name))
    assert shards, f"no features were stored in {output}"
    whole = hashlib.sha256()
    for path in shards:
        whole.update(str(path.relative_to(output)).encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made)
    made.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], metavar="N", help="how many (1 2 4)")
    options = made.parse_args(arguments)
    with opened(options) as work:
        runs = {count: run(work, count, 1, options) for count in dict.fromkeys([1, *options.processes])}
        free = run(work, 1, None, options)
    report: dict[str, Any] = {"one_process_of_all_threads_s": free["extraction_s"]}
    for count, each in runs.items():
        report[f"processes_{count}_of_one_thread_s"] = each["extraction_s"]
        if count > 1:
            report[f"process_1_over_processes_{count}"] = runs[1]["extraction_s"] / each["extraction_s"]
            report[f"all_threads_over_processes_{count}"] = free["extraction_s"] / each["extraction_s"]
    report["features_identical"] = len({each["features"] for each in runs.values()}) == 1
    publish({**report, "runs": {**runs, "1, all threads": free}}, options.json)


if __name__ == "__main__":
    main()
