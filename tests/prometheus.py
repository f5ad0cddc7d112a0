"""A real Prometheus that scrapes one server, for tests of queries and alerts, which are skipped without it."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import TIMEOUT_S

INSTALLED = bool(shutil.which("prometheus") and shutil.which("promtool"))
MISSING = "Prometheus is not installed: on Debian, apt install prometheus"
_CONFIG = """
global: {{scrape_interval: 100ms, evaluation_interval: 100ms}}
rule_files: ["*.rules.yml"]
scrape_configs:
  - job_name: tailcut
    static_configs: [{{targets: ["{target}"], labels: {{namespace: default, pod: tailcut-0}}}}]
"""


@contextmanager
def prometheus(folder: Path, target: str, *options: str) -> Iterator[str]:
    """Run a Prometheus that scrapes a server like a pod, with the `*.rules.yml` of the folder; its address."""
    (folder / "prometheus.yml").write_text(_CONFIG.format(target=target))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, *options, f"--web.listen-address={address}"], stderr=log, stdout=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """The current samples of an expression, none while Prometheus is not ready; an invalid expression raises."""
    url = f"http://{address}/api/v1/query?query={urllib.parse.quote(expression)}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        raise AssertionError(f"{expression}: {error.read().decode()}") from error
    except OSError:
        return []


def values(address: str, expression: str) -> list[float]:
    """The values of samples."""
    return [float(item["value"][1]) for item in query(address, expression)]
