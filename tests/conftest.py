"""Eight CPU devices for the meshes, and every jaxtyping annotation of the package checked by beartype."""

import jax

jax.config.update("jax_num_cpu_devices", 8)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("equimu", "beartype.beartype").__enter__()

assert jax.device_count() == 8, f"the tests need 8 CPU devices, found {jax.device_count()}"
