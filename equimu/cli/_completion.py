"""`equimu completion`."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import tyro

from equimu.cli._command import Command

_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion(Command):
    """The flags of `equimu completion`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that is to complete."""

    def __call__(self) -> None:
        """Prints the script for the shell."""
        from equimu.cli._main import commands  # which imports this file

        script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[self.shell]
        helps = commands()
        print(script({name: sorted(set(_FLAG.findall(_printed(name)))) for name in helps}, helps))


def _printed(name: str) -> str:
    """What `equimu NAME --help` prints."""
    from equimu.cli._main import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return out.getvalue()


def _cases(flags: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f"    {name}) words='{' '.join(known)}' ;;" for name, known in flags.items())


def _bash(flags: Mapping[str, Sequence[str]], helps: Mapping[str, str]) -> str:
    del helps
    return f"""_equimu() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{" ".join(flags)} help --version' -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{_cases(flags)}
  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _equimu equimu"""


def _zsh(flags: Mapping[str, Sequence[str]], helps: Mapping[str, str]) -> str:
    """That of bash, which zsh runs."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(flags, helps)}"


def _fish(flags: Mapping[str, Sequence[str]], helps: Mapping[str, str]) -> str:
    lines = [f"complete -c equimu -n __fish_use_subcommand -a {name} -d {_quoted(helps[name])}" for name in flags]
    for name, known in flags.items():
        lines += [
            f"complete -c equimu -n '__fish_seen_subcommand_from {name}' -l {flag.removeprefix('--')}" for flag in known
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
