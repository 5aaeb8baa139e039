"""The command line: flags to configs, results to text. A mistake is one line on stderr and exit code 2."""

from equimu.cli._main import main as main
