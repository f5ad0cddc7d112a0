"""`tailcut bench --report` and `--markdown` against a real server."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import Server, serving

from tailcut.models import digits_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("serve"), digits_model()) as running:
        yield running


def test_report_and_markdown(server: Server, tmp_path: Path) -> None:
    """One run gives the page, the Markdown with the same headline, and exit code 0."""
    page = tmp_path / "load.html"
    command = [sys.executable, "-m", "tailcut", "bench", server.url, "--rate", "1000", "--duration", "700ms"]
    command += ["--warmup", "100ms", "--markdown", "--report", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### p99 ")
    assert "| 1,000/s offered |" in done.stdout
    headline = done.stdout.splitlines()[0].removeprefix("### ")
    assert f'<h1 id="found">{headline}</h1>' in page.read_text()
