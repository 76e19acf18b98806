"""What the site changes in pages that MkDocs has made: roles of docstrings (``:func:`name` ``) leave the name alone."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Leave the name in code, which is what a reader needs."""
    return ROLE.sub("", html)
