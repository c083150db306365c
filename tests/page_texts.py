"""What a module of the page says in a language."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "web" / "page"


def page_texts(module: str, language: str) -> dict[str, str]:
    """The texts of a module by their keys."""
    source = (PAGE / module).read_text(encoding="utf-8")
    return dict(re.findall(r'^    (\w+): "(.*)",$', source.split(f"{language}: {{")[1].split("  },")[0], re.MULTILINE))
