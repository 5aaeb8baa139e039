"""A hook of mkdocs: the sources of the pages go with the site, since `llms.txt` leads to them."""

import shutil
from pathlib import Path
from typing import Any


def on_post_build(config: Any) -> None:
    source, site = Path(config["docs_dir"]), Path(config["site_dir"])
    for page in source.rglob("*.md"):
        target = site / page.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, target)
