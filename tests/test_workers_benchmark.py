"""benchmarks/workers.py: what it says where the connections of a load cannot all be counted."""

import importlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_missing_connections_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A round without all connections says how many there were, and a benchmark without any spread says so."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    workers = importlib.import_module("workers")
    spreads: list[list[int]] = []
    workers.spread(os.getpid(), 1, 128, spreads, limit_s=0.05)
    assert spreads == []
    assert "after 0.05 s, at most 0 of 128 connections were established" in capsys.readouterr().out
    assert workers.spread_words(spreads) == (
        "connections: their spread is unknown, because they were never all established"
    )
    assert workers.spread_words([[60, 68]]).endswith("at most 53% at one worker, under the limit of 75%")
