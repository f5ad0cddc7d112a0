"""The live page as one answer: the files of `live/page/` joined, so that a browser needs no other file."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

HTML = "text/html; charset=utf-8"
_PART = re.compile(r"\{(\w+\.(?:css|js))\}")
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def live_page() -> tuple[bytes, Mapping[str, str]]:
    """The page, and the header fields that allow only its own script and style."""
    folder = files("tailcut.live") / "page"
    frame = (folder / "page.html").read_text(encoding="utf-8")
    page = _PART.sub(lambda part: (folder / part[1]).read_text(encoding="utf-8"), frame)
    hashes = {name: _hash(text) for name, text in _INLINE.findall(page)}
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return page.encode(), headers


def _hash(text: str) -> str:
    """The source expression of an inline script or style in a policy (CSP level 3, section 2.3.1)."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
