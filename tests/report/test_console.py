"""What a tune shows while it runs, and what a comparison shows at its end."""

from io import StringIO

import pytest
from msgspec.structs import replace
from rich.console import Console
from tests.report.test_html import ASKED, figures, ratio, result

from tailcut.report.console import LadderView, comparison_summary, tune_summary
from tailcut.report.markdown import tune_markdown
from tailcut.report.tune_words import headline
from tailcut.runtime.settings import Settings
from tailcut.stats import Verdict
from tailcut.tuner.events import Best, Estimated, ExpectedTime, Phase, RungStarted
from tailcut.tuner.result_records import ComparedProfile, ComparisonResult


def view(*, terminal: bool) -> tuple[LadderView, StringIO]:
    out = StringIO()
    return LadderView(120.0, Console(file=out, force_terminal=terminal, width=200)), out


def comparison(model: str, *profiles: ComparedProfile) -> ComparisonResult:
    return ComparisonResult(
        model=model,
        machine={},
        objective=ASKED,
        command="tailcut tune --compare",
        rate=500.0,
        clients=16,
        took_s=60.0,
        noise=None,
        worse=bool(profiles),
        profiles=list(profiles),
    )


def test_progress_has_phase_estimates_the_best_and_the_time_left() -> None:
    """As they come: the counts add up, a new phase replaces the one before."""
    shown, _ = view(terminal=True)
    with shown:
        shown(Phase("measuring 7 engine configurations"))
        assert shown.progress(20.0).startswith("measuring 7 engine configurations")
        assert "100 s left" in shown.progress(20.0)
        assert "estimated" not in shown.progress(20.0)
        for event in (Estimated(1), Estimated(203), Best("engine.threads=1", "900 answers/s"), RungStarted("simd", 1)):
            shown(event)
        line = shown.progress(50.0)
    assert line.startswith("simd")
    assert "204 estimated" in line
    assert "70 s left" in line
    assert "best: engine.threads=1, 900 answers/s" in line


def test_a_slow_models_time_left_is_the_expected_one() -> None:
    """And never less than nothing."""
    shown, _ = view(terminal=True)
    shown(ExpectedTime(600.0))
    assert "500 s left" in shown.progress(100.0)
    assert "0 s left" in shown.progress(700.0)


def test_without_a_terminal_there_are_plain_lines() -> None:
    """Phases are lines; counts are no lines of their own."""
    shown, out = view(terminal=False)
    with shown:
        for event in (Phase("simulated 203 configurations"), Estimated(203), Best("a", "b")):
            shown(event)
    assert out.getvalue() == "simulated 203 configurations\n"


def test_a_comparison_names_what_is_worse_and_what_is_wrong() -> None:
    """A row for each profile, and below it a sentence for each but the first."""
    first = ComparedProfile(
        **figures(8.0),
        profile="A.toml",
        setting="",
        settings=Settings(),
        right=True,
        wrong=None,
        unchanged=False,
        ratios={},
        throughput_ratio=None,
        verdict=None,
        reason="",
        slo_met=False,
    )
    worse = replace(first, profile="B.toml", verdict=Verdict.WORSE, reason="p99 x1.40", ratios={"p99": ratio(1.4)})
    wrong = replace(worse, profile="C.toml", wrong="request 3: cosine 0.5")
    same = replace(worse, profile="D.toml", verdict=Verdict.INDISTINCT, unchanged=True)
    record = comparison("m.onnx", first, worse, wrong, same)
    out = StringIO()
    Console(file=out, width=200).print(comparison_summary(record))
    text = out.getvalue()
    assert "req/s at 16 in flight" in text
    assert "B.toml: worse p99 x1.40" in text
    assert "C.toml gives wrong answers: request 3: cosine 0.5" in text
    assert "x1.40 (1.12 to 1.54)" in text
    assert "D.toml: unchanged: the same settings as the first profile" in text
    assert text.count("the limit of 10 ms is missed") == 4


def test_failed_requests_have_a_column_where_there_are_any() -> None:
    """Of the verification and of a comparison; and a tail that is unknown for them says so."""
    shown = result(gain=None)
    out = StringIO()
    Console(file=out, width=200).print(tune_summary(shown))
    assert "failed" not in out.getvalue()
    checked = shown.verification
    assert checked is not None
    tuned = replace(checked.tuned, errors=1234)
    because = "requests failed: 1,234 of the tuned server's and 0 of the baseline's"
    shown = replace(shown, verification=replace(checked, tuned=tuned, no_ratio_because=because))
    Console(file=out, width=200).print(tune_summary(shown))
    assert "failed" in out.getvalue()
    assert "1,234" in out.getvalue()
    assert because in out.getvalue()
    assert headline(shown) == ("No ratio", f"R{because[1:]}. The tuned p99 is 8.000 ms.")
    assert "| failed |" in tune_markdown(shown)
    assert "| failed |" not in tune_markdown(result())


def test_a_tail_that_got_longer_is_called_so_everywhere() -> None:
    """In the terminal in the words of the page, whether it is proven or not."""
    for gain, words in ((1.5, "p99 got longer: x1.50 of the baseline's"), (0.95, "No proven gain: p99 is x0.95")):
        out = StringIO()
        Console(file=out, width=300).print(tune_summary(result(gain=gain)))
        assert words in out.getvalue()
        assert ": ".join(headline(result(gain=gain))).removesuffix(".") in out.getvalue()


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "it is unknown whether p99 is within the limit of 10 ms: the 99 % interval of p99 is 7.200 to 10.400 ms"),
        ({"p99_interval_ms": None, "p50_ms": 12.0}, "over the limit of 10 ms: even p50 is 12.000 ms"),
        ({"p99_interval_ms": None, "samples": 90}, "of 10 ms: p99 needs 459 samples, and there are 90: raise --budget"),
        ({"p99_interval_ms": None, "errors": 1500}, "of 10 ms: 1,500 requests failed, so that p99 has no upper bound"),
        ({"p99_interval_ms": None}, "of 10 ms: the load client was late in most blocks: lower the rate"),
    ],
)
def test_what_is_not_known_of_a_limit(known: dict, words: str) -> None:
    """Where a p99 is proven neither within its limit nor over it, the reason and what to do."""
    shown = result()
    checked = shown.verification
    assert checked is not None
    tuned = replace(checked.tuned, **{"p99_interval_ms": (7.2, 10.4), **known})
    shown = replace(shown, verification=replace(checked, tuned=tuned))
    out = StringIO()
    Console(file=out, width=400).print(tune_summary(shown))
    assert words in out.getvalue()
