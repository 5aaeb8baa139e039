"""Pages of the documentation: their blocks, their links, and what the shell commands on them are."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    file: str  # that a reader saves it as; empty for what is run
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page.read_text())]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command, without comments, redirections and what starts it on several machines."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        end = next((i for i, word in enumerate(words) if word in ("<", ">")), len(words))
        words = words[1:end] if words[:1] == ["srun"] else words[:end]
        if words:
            yield words


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What links to a page may end in: its headings as mkdocs makes them, and the names that mkdocstrings describes there."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode()).strip())
        number = 0
        while f"{slug}_{number}" in found or (number == 0 and slug in found):
            number += 1
        found.add(f"{slug}_{number}" if number else slug)
    return found | set(re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE))
