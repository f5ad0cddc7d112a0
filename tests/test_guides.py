"""The snippets of the guides run as they stand, and print what their comments say."""

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parent.parent / "docs" / "guide"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*?\)\s+# (?!None where)(.+)$", re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["memory", "machine", "counters", "microbenchmarks", "batching", "client", "kernels", "vectorization"]
)
def test_snippets(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's snippets run one after the other in one program; every `print(...)  # text` prints that text."""
    program = "\n".join(BLOCK.findall((GUIDES / f"{name}.md").read_text(encoding="utf-8")))
    assert program
    exec(compile(program, name, "exec"), {"__name__": name})
    printed = capsys.readouterr().out.splitlines()
    assert [text for text in PROMISE.findall(program) if text not in printed] == []
