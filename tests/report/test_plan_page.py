"""What a plan shows."""

import re
from dataclasses import replace
from io import StringIO

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tests.planning.test_plan import WANTED, measured, plan

from tailcut.errors import UsageError
from tailcut.planning.autoscale import Rules
from tailcut.planning.demand import Limit, Recording
from tailcut.planning.records import CapacityPoint
from tailcut.report.html import render_plan_html
from tailcut.report.plan_page import headline, page, plan_view

pytestmark = pytest.mark.usefixtures("short_simulations")


def shown(result: object) -> str:
    console = Console(width=110, file=StringIO())
    console.print(plan_view(result))  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_shows_what_is_planned() -> None:
    """The number, the losses, the curve, and what it rests on."""
    result = plan(failures=1, price=0.5)
    text = shown(result)
    assert text.startswith(f"{result.replicas} replicas, {result.cores:g} cores (simulated)\n")
    assert f"p99 within 15 ms; {result.needed} are enough" in text
    assert "+20 %, 1 lost" in text
    assert "highest rate within the limit" in text
    assert "price: " in text
    assert "routing: two-choices" in text


def test_one_replica() -> None:
    """Is one machine, and not simulated beyond it; nothing may be lost."""
    result = plan(rates=[20.0])
    assert headline(result)[0] == "1 replica, 2 cores"
    assert "no replica may be lost" in shown(result)


def test_one_of_a_thing_is_not_several() -> None:
    """One that is enough, one core, one replica."""
    result = plan(rates=[20.0], failures=1, cores=1.0)
    assert headline(result) == ("2 replicas, 2 cores (simulated)", headline(result)[1])
    assert headline(result)[1].endswith("; 1 is enough")
    assert "a replica has 1 core, which" in shown(result)
    assert "each of 2 workers has 1 core of its own" in shown(plan(rates=[20.0], workers=2, cores=2.0))
    recording = Recording(np.array([0.0, 100.0, 200.0]), np.array([0.0, 500.0, 1000.0]), replayed=False)
    words = page(plan(recording=recording, rates=[], rules=Rules())).scaling_words
    assert "at most 1 replica, 0 changes" in words


def test_large_numbers_have_no_exponent() -> None:
    """In the terminal's text, on the page and in the notes."""
    models, loose = [measured(us=20.0)], [Limit("p99", 9_149_000.0)]
    result = plan(models=models, rates=[12_000.0], limits=loose, price=13_860.5, capacity=1_234_567.0, cores=4096.0)
    result = msgspec.structs.replace(result, cores=4_096_000.0)
    for text in (shown(result), render_plan_html(result)):
        words = " ".join(text.split())
        assert not re.search(r"\d[eE][+-]\d", words)
        for part in ("4,096,000 cores", "within 9,149,000 ms", "at most 1,234,567 requests/s", "13,86"):
            assert part in words
    with pytest.raises(UsageError, match=r"within 1,000 ms: a lone request takes 1\d,\d\d\d ms"):
        plan(models=[measured(us=12_000_000.0)], limits=[Limit("p99", 1000.0)])


def test_workers_and_devices() -> None:
    """Are counted over all replicas, where there are several."""
    result = plan(rates=[20.0], workers=2, cores=2.0, models=[measured(device="cuda")])
    assert headline(result)[0] == "1 replica, 2 workers, 2 cores, 1 GPU"


def test_the_page_has_charts_and_escapes_names() -> None:
    """A model's name is text; the raw numbers are there to be saved."""
    result = plan(models=[measured("<b>x</b>")])
    curve = [CapacityPoint(1, 2.0, 400.0), CapacityPoint(2, 4.0, 900.0)]
    html = render_plan_html(msgspec.structs.replace(result, curve=curve))
    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x" in html
    assert "Rate against replicas" in html
    assert "Every figure is simulated" in html
    assert "sample size" not in html
    assert page(result).scaling is None


def test_the_page_writes_names_as_they_are() -> None:
    """In sentences, too, which begin with a large letter all the same."""
    result = plan(models=[measured("aBERT-Base"), measured("XLM")], rates=[20.0, 20.0], limits=[Limit("p99", 60.0)] * 2)
    html = render_plan_html(result)
    assert "<li>ABERT-Base: the profile does not say what the tuned server answered: CPU times are those" in html
    assert "<li>XLM: the profile" in html
    assert "<li>Arrivals: poisson" in html


def test_the_page_of_a_recording() -> None:
    """Replicas, and missed requests, over time."""
    recording = Recording(np.array([0.0, 100.0, 200.0]), np.array([0.0, 5000.0, 30_000.0]), replayed=False)
    result = plan(recording=recording, rates=[], rules=Rules())
    values = page(result)
    assert values.scaling is not None
    assert values.missed is not None
    assert "autoscaler (target 0." in values.scaling_words
    assert "Requests per second over time" in render_plan_html(result)


def test_several_models_and_another_percentile() -> None:
    """Each model has a line; a limit of another percentile has a column."""
    wanted = replace(WANTED, models=[measured("a"), measured("b")])
    result = plan(models=wanted.models, rates=[50.0, 50.0], limits=[Limit("p95", 30.0)] * 2)
    text = shown(result)
    assert "each model" in text
    assert "p95 ms" in text
    assert "Each model" in render_plan_html(result)
