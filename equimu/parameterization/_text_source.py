"""The text of a call, for messages that tell the place in it."""

import ast
import dataclasses
import warnings
from typing import Any

from equimu._errors import EquimuError


@dataclasses.dataclass(frozen=True)
class Source:
    """A text in one line, and what is wrong in it."""

    text: str

    def parse(self) -> ast.expr:
        """Its syntax tree.

        Raises:
            EquimuError: it is not an expression of Python; tells where that shows.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd numbers and escapes: what is wrong is refused anyhow
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise self.refusal(f"is not a call ({error.msg} at character {error.offset or 1})") from None
        except (ValueError, MemoryError, RecursionError):
            raise self.refusal("is not a call") from None

    def refusal(self, words: str, node: ast.AST | None = None) -> EquimuError:
        """An error with the text, and the place of a part of it."""
        place = "" if node is None else f"; see {self.piece(node)} at character {self._start(node) + 1}"
        return EquimuError(f"parameterization {_short(self.text)!r} {words}{place}")

    def piece(self, node: ast.AST) -> str:
        """The text of a node."""
        return _short(ast.get_source_segment(self.text, node) or "")

    def _start(self, node: Any) -> int:
        return len(self.text.encode()[: node.col_offset].decode())


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
