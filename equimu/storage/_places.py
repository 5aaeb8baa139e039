"""Places by tensorstore: local folders, and URLs (`gs://`, `s3://`, `file://`, `memory://`); its errors in one line."""

import re
import urllib.parse
from pathlib import Path
from typing import Any


def tensorstore() -> Any:
    """The package, imported when it is first needed; most of its signatures are untyped, hence Any."""
    import tensorstore

    return tensorstore


def is_url(place: str) -> bool:
    """Whether a place is a URL and not a local path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def local_path(place: str) -> Path | None:
    """The path of a local folder or of a `file://` URL; None of what is elsewhere.

    Args:
        place: a folder or a URL.
    """
    if place.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(place).path))
    if is_url(place):
        return None
    path = Path(place).expanduser().absolute()
    return path.resolve() if ".." in path.parts else path  # tensorstore takes no ".."


def kvstore_spec(place: str) -> Any:
    """What tensorstore opens as the key-value store of a folder or URL."""
    path = local_path(place)
    if path is None:
        return place.rstrip("/") + "/"
    # Not as a URL: a local name may hold '%', '#' or '?'.
    return {"driver": "file", "path": f"{path}/"}


def one_line(error: BaseException) -> str:
    """What an error says, in one line without tensorstore's specification of what it had open."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error).split(" [tensorstore_spec=")[0].replace("\0", "/")
    return " ".join(text.split())[:600]
