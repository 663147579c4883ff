"""Covariate-shifted copies of ID images, for the full-spectrum table of docs/studies/second_form.md.

    python scripts/study/covariate_shift.py LIST --images DATA_DIR --output shifted --number 500

Draws images of an image list and writes each under every corruption of ImageNet-C that the package has.
``OUTPUT/shifted.txt`` names the copies with their own labels, paths from ``OUTPUT``: name it as a csid set in the
benchmark's YAML, and evaluate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nci_plugin.benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupt

LIST = "shifted.txt"


def write(lines: Sequence[str], images: Path, output: Path, severity: int, seed: int) -> int:
    """Write the corrupted copies of ``lines`` (``path label``) and their list, and return how many there are."""
    generator = np.random.default_rng(seed)
    written = []
    for number, line in enumerate(lines):
        path, label = line.rsplit(maxsplit=1)
        with Image.open(images / path) as file:
            image = np.asarray(file.convert("RGB"))
        for corruption in CORRUPTIONS:
            name = f"{corruption}/{number:05d}.png"
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(corrupt(image, corruption, severity, generator)).save(output / name)
            written.append(f"{name} {label}\n")
    (output / LIST).write_text("".join(written))
    return len(written)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="image list of ID test images")
    parser.add_argument("--images", type=Path, required=True, help="directory that the list's paths start in")
    parser.add_argument("--output", type=Path, required=True, help="directory of the copies and their list")
    parser.add_argument("--number", type=int, default=500, help="images that are drawn (default: %(default)s)")
    parser.add_argument("--severity", type=int, choices=SEVERITIES, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="draws the images and the noise (default: %(default)s)")
    options = parser.parse_args(arguments)
    lines = options.list.read_text().splitlines()
    if not 1 <= options.number <= len(lines):
        parser.error(f"--number: must be 1 to {len(lines)}, the lines of {options.list}, got {options.number}")
    drawn = np.sort(np.random.default_rng(options.seed).permutation(len(lines))[: options.number])
    count = write([lines[i] for i in drawn], options.images, options.output, options.severity, options.seed)
    print(f"wrote {count} images and {options.output / LIST}")


if __name__ == "__main__":
    main()
