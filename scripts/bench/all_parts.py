"""Every measurement in one run: a table of ratios and numbers, and one JSON file. `scripts/bench.sh` starts it.

    python scripts/bench/all_parts.py [--quick] [--device DEVICE] [--output DIR] [--only SCRIPT ...]

Each part is a script beside this one and runs in a process of its own, so that none changes another's memory or speed.
A part that cannot run here is skipped and one that fails is named, both with the reason, in the table and in the file;
the others go on, and the exit status is 1 if any failed. The file is written at the end, whole.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from measuring import timed
from part_list import HERE, ROOT, SCRIPTS, Part, parts

from nci_plugin.checks import PluginError, check_writable
from nci_plugin.features.options import default_workers, resolve_device
from nci_plugin.files import write_atomically

ERROR_LINES = 40
"""Last lines of what a part that failed said, which the file keeps."""

LIBRARIES = ("torch", "torchvision", "numpy", "pytorch-ood", "nci_plugin")


def main(arguments: list[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small sizes: does all of it work? (the ratios mean little)")
    made.add_argument("--device", default="cpu", help="of the networks: auto, cpu, cuda or cuda:N (cpu)")
    made.add_argument("--output", type=Path, default=Path("results/bench"), metavar="DIR", help="(results/bench)")
    made.add_argument("--only", nargs="+", metavar="SCRIPT", choices=SCRIPTS, help=", ".join(SCRIPTS))
    made.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="diagnosed results (results)"
    )
    made.add_argument(
        "--workers", type=int, default=default_workers(), metavar="N", help="loader processes (by the cores)"
    )
    options = made.parse_args(arguments)
    try:
        options.device = str(resolve_device(options.device))
        check_writable(options.output)
    except PluginError as error:
        made.error(str(error))
    machine = this_machine(options.device)
    done = [run(part) for part in parts(options)]
    print(table(done))
    asked = {"quick": options.quick, "device": options.device, "workers": options.workers}
    report = {"machine": machine, "options": asked, "parts": done}
    write_atomically(options.output / "bench.json", json.dumps(report, indent=1) + "\n")
    print(f"\n{describe(machine)}\nwritten to {options.output / 'bench.json'}")
    return 1 if any("failed" in each for each in done) else 0


def run(part: Part, most: float | None = None) -> dict[str, Any]:
    """A part's record: what was run, and its ``report``, or why it was ``skipped`` or ``failed``.

    One that takes longer than ``most`` seconds is ended and counts as skipped, with what it had reported by then.
    """
    record: dict[str, Any] = {"part": part.letter, "name": part.name, "script": part.script}
    if part.skip:
        return skipped(part, record, part.skip)
    if most is not None and most <= 0:
        return skipped(part, record, "no time is left")
    say(f"({part.letter}) {part.name}: {part.script} {' '.join(part.arguments)}")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **part.environment}
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "report.json"
        command = [part.python, str(HERE / part.script), *part.arguments, "--json", str(written)]
        seconds, (code, errors) = timed(lambda: _ended(command, environment, most))
        record.update(arguments=list(part.arguments), seconds=round(seconds, 1))
        if code is None:
            reported = {"report": json.loads(written.read_text(encoding="utf-8"))} if written.is_file() else {}
            return {**skipped(part, record, f"it takes more than {most:.0f} s"), **reported}
        if code:
            say(f"failed:\n{errors}")
            lines = errors.splitlines() or [f"exit status {code}"]
            return {**record, "failed": lines[-1], "errors": lines[-ERROR_LINES:]}
        return {**record, "report": json.loads(written.read_text(encoding="utf-8"))}


def _ended(command: Sequence[str], environment: Mapping[str, str], most: float | None) -> tuple[int | None, str]:
    """Exit status, None of what is not done after ``most`` seconds, and what it said; nothing that it started lives on.

    Else the loader processes of a part that is ended, and what they hold, would go on beside the next one.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(most)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        return code, errors.read().strip()


def skipped(part: Part, record: Mapping[str, Any], reason: str) -> dict[str, Any]:
    say(f"({part.letter}) {part.name}: skipped, {reason}")
    return {**record, "skipped": reason}


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


# -------------------------------------------------------------------- the table


def table(done: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: part, what, ratio or number."""
    lines = [("part", "what", "result"), ("---", "---", "---")]
    for record in done:
        lines += [(f"({record['part']}) {record['name']}", what, result) for what, result in results(record)]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"| {line[0]:{widths[0]}} | {line[1]:{widths[1]}} | {line[2]} |" for line in lines)


def results(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers at the top of a report, or why there is none."""
    for state in ("skipped", "failed"):
        if state in record:
            yield state, record[state]
    for name, value in record.get("report", {}).items():
        if isinstance(value, bool):
            yield name.replace("_", " "), "yes" if value else "no"
        elif isinstance(value, (int, float)):
            yield name.replace("_", " "), f"{value:.4g}"


# -------------------------------------------------------------------- the machine


def this_machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was before."""
    import torch

    gpu = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES if is_installed(name)},
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def describe(machine: Mapping[str, Any]) -> str:
    on = f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU used'}"
    versions = f"Python {machine['python']}, torch {machine['libraries'].get('torch')}"
    return f"{machine['date'][:10]}: {on}; {versions}; load before the run {machine['load_before']}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a part started is ended too
    sys.exit(main())
