"""What the tests of strangers' files share."""

import contextlib
import hashlib
import json
import time


@contextlib.contextmanager
def within(seconds):
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def forge(path, change):
    """Changes a file that has its own checksum, and gives it one that is right."""
    found = json.loads(path.read_text())
    del found["checksum"]
    change(found)
    checksum = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**found, "checksum": checksum}))
