"""The program `equimu`, called by tests."""

import pytest

from equimu.cli import main

_AS_WIDE_AS_NEEDED = {"--json", "--markdown", "--print-commands", "completion"}


def call(capsys, *arguments):
    """The exit code, and what is printed on a terminal of 80 columns: no line but one with a path is wider."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setenv("COLUMNS", "80")
        main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    if not _AS_WIDE_AS_NEEDED & set(arguments):
        assert [line for line in out.splitlines() if len(line) > 80 and "/" not in line] == []
    return int(stop.value.code), out, err
