"""The studies are scripts: their directories are on the path as they are where a script is run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "study" / "dynamics"))
