"""docs/reference/promises.md is true where a program can tell: every test that it names is there."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/promises.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[([^`]+)\])?`")


@functools.cache
def functions_in(file: Path) -> tuple[str, set[str]]:
    """The text of a file of tests, and its functions; nothing where there is none."""
    source = file.read_text(encoding="utf-8") if file.exists() else ""
    return source, {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_that_exists() -> None:
    """Each row of each table ends in one or more tests; file, function and parameter are found."""
    text = PAGE.read_text(encoding="utf-8")
    missing = []
    for path, function, parameter in NAMED.findall(text):
        source, functions = functions_in(ROOT / path)
        if function not in functions or (parameter and f'"{parameter}"' not in source):
            missing.append(f"{path}::{function}[{parameter}]")
    assert missing == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.endswith("| tests |")]
    assert len(rows) > 40
    assert [row for row in rows if not NAMED.search(row)] == []


def test_every_broken_framing_is_promised() -> None:
    """What the server's tests send as broken is on the page, or is a variant of a line there."""
    from tests.server.test_http import FRAMING
    from tests.server.test_inference import WRONG

    text = PAGE.read_text(encoding="utf-8")
    variants = {"coding gzip", "bad chunk", "too few", "text", "not JSON", "not an object", "not UTF-8", "empty"}
    assert [name for name in [*FRAMING, *WRONG] if f"[{name}]" not in text and name not in variants] == []
