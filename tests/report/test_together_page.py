"""What a joint tune shows, from made-up figures: claims that the intervals hold, both arms, and names as text."""

from io import StringIO

import pytest
from msgspec.structs import asdict, replace
from rich.console import Console
from tests.report.test_html import ASKED, figures

from tailcut.lab.records import IntervalRecord
from tailcut.report.html import render_together_html
from tailcut.report.together_page import gain_words, headline, together_summary
from tailcut.runtime.settings import Settings
from tailcut.spec import Rows
from tailcut.tuner.result_records import RowsDecision, TailRatio
from tailcut.tuner.together.result_records import (
    Combination,
    JointArm,
    JointModel,
    JointObjective,
    JointRequest,
    JointResult,
    JointVerification,
    RejectedCombination,
)

CURVE = [(0.0, 1.0), (0.5, 2.0), (0.99, 6.0)]


def arm(p99_ms: float, *, within: bool | None) -> JointArm:
    own = {"p99_interval_ms": (p99_ms - 1, p99_ms + 1), "samples": 800, "curve": CURVE}
    return JointArm(**figures(p99_ms) | own, within=within)


def model(name: str, ratio: tuple[float, float, float] | None, *, tuned: bool | None = True) -> JointModel:
    low, point, high = ratio or (0.0, 0.0, 0.0)
    interval = IntervalRecord(point, low, high) if ratio else None
    return JointModel(
        name=name,
        path=f"{name}.onnx",
        sha256="0" * 64,
        inputs=["x"],
        outputs=["y"],
        arrivals="poisson",
        rate=100.0,
        slo_ms=10.0,
        limit_ms=10.0,
        rows=RowsDecision(Rows.INDEPENDENT, batched=True, reason="", setting="auto", evidence={}),
        setting="engine.threads=1",
        settings=Settings(),
        unchanged=False,
        right=True,
        wrong=None,
        verification=JointVerification(arm(24.0, within=False), arm(6.0, within=tuned), interval),
        profile=f"{name}.profile.toml",
    )


def result(*models: JointModel) -> JointResult:
    own = {"slo_ms": [10.0], "data": [None], "rates": [100.0], "trace": None}
    asked = JointRequest(**asdict(ASKED) | own)
    return JointResult(
        models=list(models),
        machine={},
        objective=JointObjective(**asdict(asked), percentile="p99", took_s=60.0, interrupted=False),
        command="tailcut tune a.onnx b.onnx",
        simulated=256,
        combinations=[
            Combination("a: x; b: y", [2.0, None], score=1.5, raced=1.25, alone=True),
            Combination("never raced", [2.0, 3.0], score=1.0, raced=None, alone=False),
        ],
        rejected=[RejectedCombination("a: z; b: y", "wrong answers")],
        verified=all(item.verification for item in models),
        cpu_cores={"baseline": 0.9, "tuned": 0.25},
        noise=None,
        report="a+b.report.html",
    )


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
    """Shorter or longer only if the whole interval is; otherwise it is called inconclusive."""
    assert words in gain_words(model("a", ratio))


@pytest.mark.parametrize(
    ("tuned", "words"),
    [
        ((True, True), "Every p99 is within its limit"),
        ((True, None), "P99 against its limit: 1 of 2 inconclusive"),
        ((False, None), "P99 against its limit: 1 of 2 over, 1 of 2 inconclusive"),
    ],
)
def test_the_headline_is_about_the_limits(tuned: tuple[bool | None, bool | None], words: str) -> None:
    """How many models are over their limits, with the tuned settings and with the defaults."""
    models = [model(name, (0.2, 0.25, 0.5), tuned=item) for name, item in zip("ab", tuned, strict=True)]
    large, sentence = headline(result(*models))
    assert large == words
    assert "with the engine's defaults, p99 against its limit: 2 of 2 over" in sentence


def test_the_terminal_shows_both_arms_of_each_model() -> None:
    """A table for each model, its settings, and the CPU that each server used."""
    console = Console(width=120, record=True, file=StringIO())
    console.print(together_summary(result(model("a", (0.2, 0.25, 0.5)), model("b", None))))
    text = console.export_text()
    for name in ("a", "b"):
        assert f"{name} at 100 requests/s, p99 limit 10.00 ms" in text
    assert text.count("baseline") == 3
    assert "23.00 to 25.00" in text
    assert "baseline 0.90 cores, tuned 0.25 cores" in text
    assert "report: a+b.report.html" in text


def test_where_nothing_was_kept_for_a_model_it_is_called_unchanged() -> None:
    """In the table of the terminal and of the page; the headline says so only where it is true of all models."""
    kept, same = model("a", (0.2, 0.25, 0.5)), replace(model("b", (0.9, 1.0, 1.1)), unchanged=True)
    console = Console(width=120, record=True, file=StringIO())
    console.print(together_summary(result(kept, same)))
    first, _, second = console.export_text().partition("b at 100 requests/s")
    assert ("│ tuned " in first, "│ unchanged " in first) == (True, False)
    assert ("│ tuned " in second, "│ unchanged " in second) == (False, True)
    assert "b: unchanged: nothing was kept" in second
    page = render_together_html(result(kept, same))
    assert page.count('<span class="swatch tuned"></span>unchanged') == 1
    assert headline(result(kept, same))[0] == "Every p99 is within its limit"
    assert headline(result(same, same))[0] == "Unchanged"


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
    stopped = replace(model("a", None), verification=None)
    outcome = replace(result(stopped, stopped), combinations=[], cpu_cores=None)
    assert headline(outcome)[0] == "Not verified"
    assert "Not verified" in render_together_html(outcome)


def test_a_percentile_that_stands_for_p99_is_named() -> None:
    """Where there are too few samples for it, the gain is that of the percentile furthest in the tail."""
    outcome = model("a", None)
    assert outcome.verification is not None
    tail = TailRatio(point=0.5, low=0.4, high=0.6, of="p95")
    message = gain_words(replace(outcome, verification=replace(outcome.verification, tail_ratio=tail)))
    assert message.startswith("p95 is 2.00 times shorter than with the defaults (1.67 to 2.50, 99 % interval); too few")
