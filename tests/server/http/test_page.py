"""The live page is one answer: everything that it needs is in it, and its policy allows nothing else."""

import hashlib
import re
from base64 import b64encode

from tailcut.server.http.page import live_page


def test_it_needs_no_other_file() -> None:
    """No address but those of the server, which are relative, so that a proxy may have it under any path."""
    page = live_page()[0].decode()
    assert re.findall(r"(?:src|href)=[\"'](?!#|data:)[^\"']*", page) == []
    assert re.findall(r"@import|url\(", page) == []
    addresses = set(re.findall(r"https?://[^\"'`)\s]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language
    assert re.findall(r"\{\w+\.(?:css|js)\}", page) == []


def test_its_policy_allows_its_own_script_and_style_only() -> None:
    """By their hashes; no handler or style inside an element, which no hash is for."""
    body, headers = live_page()
    page, policy = body.decode(), headers["Content-Security-Policy"]
    parts = dict(re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL))
    for name in ("script", "style"):
        digest = b64encode(hashlib.sha256(parts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    rest = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    assert re.findall(r"\s(?:on\w+|style)=", rest) == []


def test_a_script_never_writes_markup() -> None:
    """Names of models and answers are strangers' words: they become text."""
    page = live_page()[0].decode()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page) == []


def test_it_is_small() -> None:
    assert len(live_page()[0]) < 80_000
