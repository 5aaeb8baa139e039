"""What the benchmarks time."""

import time

from benchmarks._timing import interleave


def test_a_function_is_not_charged_for_what_comes_before_it():
    """Each call here takes longer where the one before was of another function."""
    last = [""]

    def function(name, seconds):
        def call():
            time.sleep(seconds if last[0] == name else 0.1)
            last[0] = name

        return call

    timings = interleave({name: function(name, 1e-3) for name in "abc"} | {"slow": function("slow", 0.01)}, rounds=4)
    assert [len(timing.seconds) for timing in timings.values()] == [4] * 4
    assert all(timing.median < 0.05 for timing in timings.values())
    assert timings["slow"].median >= 0.01
