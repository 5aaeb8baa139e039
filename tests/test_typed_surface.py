"""What type checkers see of the package: in an editor, and at run time by jaxtyping's import hook."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import signatures
from jaxtyping import TypeCheckError

import equimu as mu

ROOT = Path(__file__).parents[1]
# As a user installs the hook, and with it makes mistakes.
HOOKED = """
import importlib, json, pkgutil, re, sys
from jaxtyping import install_import_hook

with install_import_hook("equimu", "beartype.beartype"):
    import equimu as mu
for module in pkgutil.walk_packages(mu.__path__, "equimu."):
    if module.name.endswith("__main__"):
        continue
    with install_import_hook("equimu", "beartype.beartype"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # of an extra that is not installed
            assert not error.name.startswith("equimu"), error
code = "\\n".join(re.findall(r"```python\\n(.*?)```", open(sys.argv[1]).read(), re.DOTALL))
names = {}
exec(code, names)
tree, model, jax = names["tree"], names["model"], names["jax"]
mu.AdamW(learning_rate=1, weight_decay=0), mu.adamw(tree, learning_rate=1), mu.RuntimeConfig(checkpoint_seconds=60)
q = jax.numpy.ones((8, 2, 16))
mistakes = {
    "k": lambda: mu.attention.dot_product_attention(q, q[:, 0], q, scale=1),
    "tokens": lambda: model(jax.numpy.zeros((2, 16), int)),
    "key": lambda: mu.initialize(tree, 0),
    "markdown": lambda: mu.table(tree, markdown=1.5),
    "eps": lambda: mu.adamw(tree, learning_rate=1, eps="small"),
    "learning_rate": lambda: mu.AdamW(learning_rate="large"),
}
messages = {}
for argument, mistake in mistakes.items():
    try:
        mistake()
    except Exception as error:
        messages[argument] = str(error)
print(json.dumps(messages))
"""


@pytest.mark.long
def test_the_usual_hook_checks_all_and_its_messages_are_short():
    done = subprocess.run(
        [sys.executable, "-c", HOOKED, ROOT / "README.md"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout.splitlines()[-1])
    assert len(messages) == 6
    for argument, message in messages.items():
        assert f"parameter '{argument}'" in message and "Actual value" in message and "Expected type" in message
        assert len(message) < 1500, message


def test_all_annotations_are_checked_in_the_tests():
    q = jnp.ones((8, 2, 16))
    for mistake in (lambda: mu.table(None, markdown=1.5), lambda: mu.AdamW(learning_rate="large")):
        with pytest.raises(TypeCheckError, match="markdown=1.5|learning_rate='large'"):
            mistake()
    # what the arguments say of each other's shapes, too
    for name, k, v in (("k", q[:, 0], q), ("v", q[:7], q)):
        with pytest.raises(TypeCheckError, match=f"parameter '{name}'"):
            mu.attention.dot_product_attention(q, k, v, scale=1)


def test_public_names_and_their_signatures_stay():
    pinned, found = signatures.FILE.read_text().splitlines(), signatures.signatures()
    changes = [f"- {line}" for line in pinned if line not in found] + [
        f"+ {line}" for line in found if line not in pinned
    ]
    assert not changes, "\n".join(
        ["the public names or signatures changed:", *changes, "if they should, run `python tests/signatures.py`"]
    )
