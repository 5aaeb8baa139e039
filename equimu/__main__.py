"""The program `equimu`, which is `python -m equimu` too."""

import os
import sys

from equimu._interrupt import remember_interrupts


def main() -> None:
    """Imports the command line and runs it: Ctrl-C is answered in one line meanwhile, too."""
    remember_interrupts()
    # What XLA itself writes: alarms that compiling is slow, and features of machines. Its errors are exceptions, too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from equimu.cli import main as run
    except KeyboardInterrupt:
        print("equimu: interrupted before anything was begun", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
