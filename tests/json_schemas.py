"""What the commands print with --json, held against docs/schemas."""

import json
from pathlib import Path

import jsonschema

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"


def check_schema(name, text):
    """The object that a text of JSON is, which must be one of the schema of that name."""
    found = json.loads(text)
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text())).validate(found)
    return found
