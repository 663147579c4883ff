"""Other libraries' methods."""

PYTORCH_OOD = "pytorch_ood:"
"""Before the name of a method of pytorch-ood."""
