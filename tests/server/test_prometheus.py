"""The alert rules: checked and tested by promtool, and fired by a real Prometheus that scrapes a server in trouble."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from tests.prometheus import INSTALLED, MISSING, prometheus, query
from tests.server.test_overload import ONE, busy, make_profile
from tests.servers import raw_request, serving, until

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
WAIT_S = 120.0
pytestmark = pytest.mark.skipif(not INSTALLED, reason=MISSING)


@pytest.mark.parametrize(
    "command", [["check", "rules", "tailcut.rules.yml"], ["test", "rules", "tailcut.rules.test.yml"]], ids=str
)
def test_promtool_finds_nothing(command: list[str]) -> None:
    """The rules are valid, fire on made-up series of a fault, and keep silent on those of a server that is well."""
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def firing(address: str) -> set[str]:
    return {one["metric"]["alertname"] for one in query(address, 'ALERTS{alertstate="firing"}')}


def test_the_alerts_fire_on_a_real_fault(tmp_path: Path) -> None:
    """With more work than it can do in time: too slow, and refusing. Before that there is no alert."""
    profile = make_profile(tmp_path)
    rules = (FOLDER / "tailcut.rules.yml").read_text(encoding="utf-8")
    hasty = re.sub(r"for: 1m", "for: 1s", rules).replace("[1m]", "[5s]")  # seconds instead of minutes
    (tmp_path / "hasty.rules.yml").write_text(hasty)
    with serving(tmp_path, profile, "--slo", "1ms") as server, prometheus(tmp_path, server.address) as address:
        end = time.monotonic() + WAIT_S
        until(lambda: query(address, "tailcut_request_seconds_count"), server)
        assert firing(address) & {"TailcutTooSlow", "TailcutRefusing"} == set()
        while not firing(address) >= {"TailcutTooSlow", "TailcutRefusing"}:
            assert time.monotonic() < end, query(address, "ALERTS")
            with busy(server), server.connect() as wire:
                assert wire.ask(raw_request("slow", ONE, "Tailcut-Timeout-Us: 100")).status == 503
        (alert,) = query(address, 'ALERTS{alertname="TailcutRefusing",alertstate="firing"}')
        assert alert["metric"]["model"] == "slow"
        assert alert["metric"]["reason"] == "deadline"
        assert server.stop() == 0
