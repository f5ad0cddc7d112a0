"""What a joint tune shows, from made-up figures: claims that the intervals hold, both arms, and names as text."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tailcut.report.html import render_together_html
from tailcut.report.together_page import gain_words, headline, together_summary

CURVE = [[0.0, 1.0], [0.5, 2.0], [0.99, 6.0]]


def arm(p99_ms: float, *, within: bool | None) -> dict[str, Any]:
    figures = {"p50_ms": 2.0, "p95_ms": 4.0, "p99_ms": p99_ms, "p99_interval_ms": [p99_ms - 1, p99_ms + 1]}
    return figures | {"samples": 800, "errors": 0, "curve": CURVE, "within": within}


def model(name: str, ratio: tuple[float, float, float] | None, *, tuned: bool | None = True) -> dict[str, Any]:
    interval = None if ratio is None else dict(zip(("low", "point", "high"), ratio, strict=True))
    return {
        "name": name,
        "rate": 100.0,
        "arrivals": "poisson",
        "slo_ms": 10.0,
        "limit_ms": 10.0,
        "setting": "engine.threads=1",
        "profile": f"{name}.profile.toml",
        "verification": {"baseline": arm(24.0, within=False), "tuned": arm(6.0, within=tuned), "p99_ratio": interval},
    }


def result(*models: dict[str, Any]) -> dict[str, Any]:
    return {
        "models": list(models),
        "verified": all(one["verification"] for one in models),
        "simulated": 256,
        "combinations": [
            {"setting": "a: x; b: y", "p99_ms": [2.0, None], "score": 1.5, "raced": 1.25, "alone": True},
            {"setting": "never raced", "p99_ms": [2.0, 3.0], "score": 1.0, "raced": None, "alone": False},
        ],
        "rejected": [{"setting": "a: z; b: y", "reason": "wrong answers"}],
        "cpu_cores": {"baseline": 0.9, "tuned": 0.25},
        "noise": None,
        "command": "tailcut tune a.onnx b.onnx",
        "report": "a+b.report.html",
    }


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((0.2, 0.25, 0.5), "p99 is 4.00 times shorter than with the defaults (2.00 to 5.00"),
        ((0.8, 0.9, 1.2), "inconclusive"),
        ((1.1, 1.5, 2.0), "p99 got longer: x1.50"),
        (None, "too few samples"),
    ],
)
def test_a_gain_is_what_its_interval_holds(ratio: tuple[float, float, float] | None, words: str) -> None:
    """Shorter or longer only where the whole interval is; else it is said to be inconclusive."""
    assert words in gain_words(model("a", ratio))


@pytest.mark.parametrize(
    ("tuned", "words"),
    [
        ((True, True), "Every p99 is within its limit"),
        ((True, None), "P99 against its limit: 1 of 2 too near to tell"),
        ((False, None), "P99 against its limit: 1 of 2 over, 1 of 2 too near to tell"),
    ],
)
def test_the_headline_is_about_the_limits(tuned: tuple[bool | None, bool | None], words: str) -> None:
    """How many models are over their limits, with the tuned settings and with the defaults."""
    models = [model(name, (0.2, 0.25, 0.5), tuned=one) for name, one in zip("ab", tuned, strict=True)]
    large, sentence = headline(result(*models))
    assert large == words
    assert "with the engine's defaults, p99 against its limit: 2 of 2 over" in sentence


def test_the_terminal_shows_both_arms_of_each_model() -> None:
    """A table for each model, its settings, and the CPU that each server used."""
    console = Console(width=120, record=True, file=StringIO())
    console.print(together_summary(result(model("a", (0.2, 0.25, 0.5)), model("b", None))))
    text = console.export_text()
    for name in ("a", "b"):
        assert f"{name} at 100 requests/s, limit of p99 10.00 ms" in text
    assert text.count("baseline") == 3
    assert "23.00 to 25.00" in text
    assert "baseline 0.90 cores, tuned 0.25 cores" in text
    assert "report: a+b.report.html" in text


def test_the_page_shows_what_raced_and_what_was_refused() -> None:
    """Simulated combinations that never raced are left out; names of strangers are text."""
    page = render_together_html(result(model("<b>a</b>", (0.2, 0.25, 0.5)), model("b", (0.8, 0.9, 1.2))))
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "<b>a</b>" not in page.partition("<script")[0]
    assert "a: x; b: y" in page
    assert "best of each alone" in page
    assert "wrong answers" in page
    assert page.partition('type="application/json"')[0].count("never raced") == 0


def test_an_interrupted_tune_claims_nothing() -> None:
    """Neither the terminal nor the page."""
    stopped = model("a", None) | {"verification": None}
    found = result(stopped, stopped) | {"combinations": [], "cpu_cores": None}
    assert headline(found)[0] == "Not verified"
    assert "Not verified" in render_together_html(found)
