"""Synthetic sweeps whose best learning rates are known, and what the report says of them."""
