"""`tailcut bench --report` and `--markdown` against a real server."""

from pathlib import Path

import pytest
from tests.cli.conftest import Bench
from tests.servers import Server, serving

from tailcut.models import digits_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("serve"), digits_model()) as running:
        yield running


def test_report_and_markdown(bench: Bench, server: Server, tmp_path: Path) -> None:
    """One run gives the page, the Markdown with the same headline, and exit code 0."""
    page = tmp_path / "load.html"
    done = bench(server.url, "--rate", "1000", "--duration", "700ms", "--markdown", "--report", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### p99 ")
    assert "| 1,000/s offered |" in done.stdout
    headline = done.stdout.splitlines()[0].removeprefix("### ")
    assert f'<h1 id="found">{headline}</h1>' in page.read_text()
