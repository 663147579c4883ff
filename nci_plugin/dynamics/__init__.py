"""Collapse along training: what is logged at epochs, when collapse sets in, and what foretells it."""
