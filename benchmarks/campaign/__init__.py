"""Parts of the campaign of faults, each a module with a function `run`."""

import os

# JAX reads both when it is imported. Compiled programs from a cache make XLA talk of the processor's features, at length.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # a parent that has imported JAX has set it already
os.environ.setdefault("JAX_PLATFORMS", "cpu")
