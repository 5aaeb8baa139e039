"""What tyro says of wrong flags, as one line."""

import re

from equimu._errors import EquimuError


def own_words(stop: BaseException) -> str | None:
    """What a config said, of which tyro made an exit; None where tyro itself has something to say."""
    cause = stop
    while cause is not None:
        if isinstance(cause, EquimuError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def one_line(message: str) -> str:
    """tyro's boxed message as one line: what is wrong and, where it knows, the nearest flag."""
    paragraphs: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│╭╮╰╯ ").strip()
        if re.fullmatch(r"[─\s]*", text) or line.startswith("╭"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    messages = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    near = re.search(r"Perhaps you meant.*?(--[\w.-]+)", " ".join(messages))
    first = messages[0] if messages else "these flags make no sense"
    return first.rstrip(".") + (f"; did you mean {near.group(1)}?" if near else "; --help tells the flags")
