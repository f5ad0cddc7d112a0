"""Names that users give are shown as they are: brackets are no markup, and a bar ends no cell of a table."""

from io import StringIO

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType
from tests.report.records import bench, explained, run
from tests.report.test_console import comparison, view
from tests.report.test_html import result

from tailcut.report.bench import bench_table
from tailcut.report.console import comparison_summary
from tailcut.report.explain import explain_markdown, explain_view
from tailcut.report.markdown import tune_markdown
from tailcut.runtime.tracing.records import StepTimes
from tailcut.tuner.events import RungDone, RungStarted

NAMES = ["tokenize[en]", "a[/b]", "[red]a"]


def printed(item: RenderableType) -> str:
    out = StringIO()
    Console(file=out, width=200).print(item)
    return out.getvalue()


def step(name: str) -> StepTimes:
    return StepTimes(name, 1000, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_a_pipeline(name: str) -> None:
    """In the terminal's table of an explanation, and while it is tuned."""
    assert name in printed(explain_view(replace(explained(), steps=[step(name)])))
    shown, out = view(terminal=False)
    with shown:
        shown(RungStarted(name, 2))
        shown(RungDone(name, None, ""))
    assert f"{name} 2 to try" in out.getvalue()
    assert f"  {name}: " in out.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_and_a_server(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the titles of tables."""
    assert f"{name} at 500 requests/s" in printed(comparison_summary(comparison(name)))
    bench_table(replace(bench(replace(run(500.0), errors={name: 2})), target=f"unix://{name}"))
    text = capsys.readouterr().out
    assert f"unix://{name}, HTTP" in text
    assert f"2 x {name}" in text


def test_markdown() -> None:
    """In the cells of its tables."""
    explained_steps = explain_markdown(replace(explained(), steps=[step("a|b [c](d)")]))
    assert "| a\\|b \\[c\\](d) | 1 | 3 | 5 | 6 |" in explained_steps
    tuned = result()
    tuned = replace(tuned, rungs=[replace(tuned.rungs[0], name="a|b"), *tuned.rungs[1:]])
    assert "| a\\|b | " in tune_markdown(tuned)
