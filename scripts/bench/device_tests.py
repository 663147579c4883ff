"""The tests marked ``device``, which run on every device that is there: how many passed, failed and were skipped.

    python scripts/bench/device_tests.py

Needs pytest. Fails where a test fails, with the tests' own output.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import parser, publish

TESTS = Path(__file__).resolve().parents[2] / "tests"


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    marked = sorted(str(path) for path in TESTS.glob("test_*.py") if "mark.device" in path.read_text(encoding="utf-8"))
    with TemporaryDirectory() as directory:
        told = Path(directory) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "device", "-p", "no:cacheprovider", f"--junitxml={told}"]
        done = subprocess.run([*command, *marked], cwd=TESTS.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        (suite,) = ElementTree.parse(told).getroot().iter("testsuite")
    total, skipped = (int(suite.get(name, 0)) for name in ("tests", "skipped"))
    publish({"tests_passed": total - skipped, "tests_skipped": skipped}, options.json)


if __name__ == "__main__":
    main()
