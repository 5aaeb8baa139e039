"""The worked examples: a step or two of each quickly, and each whole script with its own check."""

import importlib.util
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

import equimu as mu

EXAMPLES = Path(__file__).parent.parent / "examples"
WIDER = {"base": {"width": 4}, "target": {"width": 8}}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("network", ["MLP", "CNN"])
def test_image_classifier_trains(network):
    example = load("image_classifier")
    still, moved = example.train(getattr(example, network), mu.mup(), WIDER, [0.0, 2**-6], steps=2)
    assert isfinite(still) and isfinite(moved) and still != moved


def test_gru_language_model_trains():
    example = load("gru_language_model")
    text = example.np.frombuffer(bytes(range(256)) * 4, example.np.uint8)
    still, moved = example.train(text, mu.mup(), WIDER, [0.0, 2**-6], steps=2)
    assert isfinite(still) and isfinite(moved) and still != moved


def test_vision_transformer_trains():
    example = load("vision_transformer")
    sizes = {"base": {"d_model": 8, "n_layer": 1}, "target": {"d_model": 16, "n_layer": 2}}
    before, after = example.train(mu.completep(), sizes, 2**-6, steps=2)
    assert isfinite(before) and isfinite(after) and before != after


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image_classifier", "gru_language_model", "vision_transformer"])
def test_example_ends_in_its_own_check(name):
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS")
