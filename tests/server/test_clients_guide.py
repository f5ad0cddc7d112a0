"""The guide to clients is true: its programs run as they stand, against the server that it names."""

import re
from pathlib import Path

import pytest
from tests.servers import serving

from tailcut.models import digits_model

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "clients.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^ *print\(.*?\)  # (.+)$", re.MULTILINE)


def test_snippets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other in one program; every `print(...)  # text` prints that text."""
    program = "\n".join(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))
    flags = ["--grpc-port", "0", "--shared-memory", "demo-"]
    with serving(tmp_path, f"digits={digits_model()}", *flags) as server:
        running = program.replace("localhost:8000", server.address)
        running = running.replace("localhost:8001", f"{server.host}:{server.grpc_port}")
        exec(compile(running, "clients.md", "exec"), {"__name__": "clients"})
        assert server.stop() == 0
    promised = PROMISE.findall(program)
    assert len(promised) == 9
    assert capsys.readouterr().out.splitlines() == promised
