"""Sweeps over several sizes whose law is known, or measured beyond them, and what the joint law says of them."""
