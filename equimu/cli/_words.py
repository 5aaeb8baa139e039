"""Wrong flags: what is said of them, in one line."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from equimu._errors import EquimuError, nearest

# What people write, and what it is called here. In commands of several runs what these share stands under run.
_MEANT = {
    "lr": "optimizer.learning-rate",
    "learning-rate": "optimizer.learning-rate",
    "weight-decay": "optimizer.weight-decay",
    "warmup-steps": "optimizer.warmup",
    "optimizer": "optimizer.name",
    "optimizer.decay": "optimizer.schedule",
    "runtime.restore-from": "restore-from",
    "epochs": "steps",
    "iterations": "steps",
    "max-steps": "steps",
    "batch-size": "text.rows",
    "seq-len": "text.seq",
    "width": "size.width",
    "d-model": "size.width",
    "hidden-size": "size.width",
    "depth": "size.depth",
    "layers": "size.depth",
}
_OF_SEARCH = {"lr": "search.learning-rate", "learning-rate": "search.learning-rate"}
_OF_COMMANDS = {
    "sweep": {
        "lr": "fit.learning-rate",
        "learning-rate": "fit.learning-rate",
        "width": "over.width",
        "depth": "over.depth",
    },
    "tune": _OF_SEARCH,
    "compare": _OF_SEARCH,
}
_GROUPS = {"--list", "--group", "--groups", "--all"}  # of show and reproduce, which take groups as words


def own_words(stop: BaseException) -> str | None:
    """What a config said, of which tyro made an exit; None where tyro itself has something to say."""
    cause = stop
    while cause is not None:
        if isinstance(cause, EquimuError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def one_line(message: str, command: str, *, has_config: bool) -> str:
    """tyro's boxed message as one line: what is wrong and, where it is known, the flag that was meant.

    Args:
        message: tyro's.
        command: the name of the command.
        has_config: whether it takes the flags of a run.
    """
    paragraphs: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│╭╮╰╯ ").strip()
        if re.fullmatch(r"[─\s-]*", text) or line.startswith("╭"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    messages = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    messages = messages if "╭" in message else messages[1:]  # in ASCII, the title is a paragraph
    first = messages[0].rstrip(".") if messages else "these flags are not valid"
    if first.startswith("Missing from"):
        names = re.findall(r"^[│ ] {5}(?!equimu )(\S[^│]*?)\s*│?$", message, re.MULTILINE)
        about = f": {first.partition(names[0])[2].strip()}".removesuffix(". (required)") if len(names) == 1 else ""
        return f"{command} needs {' and '.join(names)}{about}; equimu {command} --help tells more"
    choice = re.fullmatch(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", first)
    if choice is not None:
        value, flag, valid = choice.groups()
        names = re.findall("'([^']*)'", valid)
        return f"{flag} {value!r} is unknown: {nearest(value, names)}"
    unknown = re.findall(r"[^\s,]+", first.partition("Unrecognized options:")[2])
    near = re.search(r"Perhaps you meant.*?(--[\w.-]+)", " ".join(messages))
    if command in ("show", "reproduce") and _GROUPS & set(unknown):
        return f"{first}; groups are words, as in equimu {command} lion; equimu show all lists the groups"
    hint = (has_config and _meant(unknown, command)) or (
        f"did you mean {near.group(1)}?" if near else "--help tells the flags"
    )
    return f"{first}; {hint}"


def _meant(unknown: Sequence[str], command: str) -> str | None:
    """What to write instead of flags that are not there; None where that is not known."""
    if not any(flag.startswith("--") for flag in unknown):  # of which they could be values
        return next(filter(None, (instead(word, command) for word in unknown)), None)
    for flag in unknown:
        name = flag.removeprefix("--").partition("=")[0]
        if flag == name:
            continue
        own = _OF_COMMANDS.get(command)
        bare = name if own is None else name.removeprefix("run.")
        if bare == "resume":
            return "the same command, given again, goes on where it was; --restore-from begins another run from a checkpoint"
        if own is not None and bare in own:
            return f"write --{own[bare]}"
        is_of_run = own is not None and bare == name and bare.partition(".")[0] in _of_run()
        target = _MEANT.get(bare, bare if is_of_run else None)
        if target is not None:
            return f"write --{'' if own is None else 'run.'}{target}"
    return None


def instead(word: str, command: str) -> str | None:
    """What to write instead of a word that a command with a config has no place for; None where that is not known."""
    from equimu.optim import is_optimizer_text
    from equimu.parameterization import parameterization_names
    from equimu.presets import PREFIX, group_meant, means_all

    run = "run." if command in _OF_COMMANDS else ""
    if word.endswith(".py"):
        return f"name a task in it, e.g. {word}:NextByte, as the first word after the command"
    if word.endswith((".json", ".toml")):
        return f"did you mean --config {word}?"
    if Path(word, "config.json").is_file():
        return f"did you mean --config {Path(word, 'config.json')}?"
    if _OF_COMMANDS.get(command) is not _OF_SEARCH and (group_meant(word) or means_all([word])):
        return f"did you mean --config {PREFIX}{group_meant(word) or 'baseline'}?"
    if re.split(r"[(.]", word)[0] in parameterization_names():
        return f"did you mean --{'panels' if command == 'sweep' else f'{run}parameterization'} {shlex.quote(word)}?"
    return f"did you mean --{run}optimizer.name {word}?" if is_optimizer_text(word) else None


def show_instead(word: str) -> str | None:
    """What to write instead of a group of the paper, where a command should stand."""
    from equimu.presets import group_meant, means_all

    named = "all" if means_all([word]) else group_meant(word)
    return named and f"did you mean equimu show {named}?"


def _of_run() -> set[str]:
    """The flags that runs have in common. Imported here: commands that train nothing do without JAX."""
    from equimu.runs import RunConfig

    return {field.name.replace("_", "-") for field in dataclasses.fields(RunConfig)}
