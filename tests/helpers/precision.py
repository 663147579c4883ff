"""What this torch computes in on the CPU."""

from __future__ import annotations

import pytest
import torch


def skip_unless_computed(precision: torch.dtype) -> None:
    """Skip a test where the CPU multiplies no matrices of a type: float16 came with torch 2.2."""
    try:
        torch.nn.Linear(2, 2).to(precision)(torch.ones(1, 2, dtype=precision))
    except RuntimeError:
        pytest.skip(f"this torch does not compute in {precision} on the CPU")
