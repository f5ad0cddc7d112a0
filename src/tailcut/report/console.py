"""What a tune shows on a terminal: a line for each candidate as it is judged, and the whole at the end."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.tune_page import copy_words, more_traffic, rows_words
from tailcut.report.words import cpu
from tailcut.tuner.events import CandidateDone, CandidateStarted, Event, Phase, RungDone, RungStarted

COLOURS = {
    "better": "green",
    "worse": "red",
    "indistinct": "dim",
    "rejected": "yellow",
    "skipped": "dim",
    "estimated": "dim",
    "raced": "cyan",
}


class LadderView:
    """Shows events as they come, on stderr: a spinner with the time left on a terminal, plain lines elsewhere."""

    def __init__(self, budget_s: float) -> None:
        self.console = Console(stderr=True)
        if not self.console.is_terminal:
            self.console = Console(stderr=True, width=160)
        self._budget_s = budget_s
        self._began = time.monotonic()
        self._status: Status | None = Status("", console=self.console) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Phase(text):
                self._doing(text)
                self.console.print(f"[bold]{escape(text)}[/]")
            case RungStarted(name, candidates):
                self._doing(name)
                self.console.print(f"[bold cyan]{name}[/] [dim]{candidates} to try[/]")
            case CandidateStarted(rung, setting):
                self._doing(f"{rung}: {setting}")
            case CandidateDone(_, candidate):
                self.console.print("  " + candidate_line(candidate))
            case RungDone(name, kept, note):
                said = f"[green]kept {escape(kept)}[/]" if kept else f"[dim]{escape(note or 'nothing kept')}[/]"
                self.console.print(f"  [bold]{name}[/]: {said}")

    def _doing(self, text: str) -> None:
        if self._status is not None:
            spent = time.monotonic() - self._began
            self._status.update(f"{escape(text)} [dim]{spent:.0f} of {self._budget_s:.0f} s[/]")


def candidate_line(candidate: Mapping[str, Any]) -> str:
    """One candidate in one line of rich markup."""
    word = candidate["verdict"]
    return f"[{COLOURS[word]}]{word:10s}[/] {escape(candidate['setting'])} [dim]{escape(candidate['reason'])}[/]"


def tune_summary(result: Mapping[str, Any]) -> RenderableType:  # noqa: C901  a line for each thing there is
    """The verification as a table, what was gained, and where the files are."""
    checked = result["verification"]
    lines: list[RenderableType] = []
    if checked is None:
        lines.append("[yellow]not verified: interrupted before the end; the best settings so far were kept[/]")
    else:
        table = Table(title=f"verified at {result['objective']['rate']:,.6g} requests/s, latency in ms")
        for name in ("", "p50", "p95", "p99", "99 % interval", "samples", "req/s at 16 in flight", "CPU a request"):
            table.add_column(name, justify="right" if name else "left")
        for arm in ("baseline", "reference", "tuned"):
            found = checked[arm]
            bounds = found["p99_interval_ms"]
            spread = "unknown" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
            figures = [_ms(found[name]) for name in ("p50_ms", "p95_ms", "p99_ms")]
            speed = "unknown" if found["throughput"] is None else f"{found['throughput']:,.0f}"
            table.add_row(arm, *figures, spread, f"{found['samples']:,}", speed, cpu(found["cost"]))
        lines += [table, headline(result)]
        more = more_traffic(result)
        if more:
            lines.append(f"[green]{escape(more)}[/]")
    accuracy = result["accuracy"]
    if accuracy is not None:
        answers = "; ".join(f"{words} {figure}" for words, figure in accuracy_figures(accuracy))
        if answers:
            lines.append(escape(f"answers: {answers}"))
        if random_words(accuracy):
            lines.append(f"[yellow]{escape(random_words(accuracy))}[/]")
    batching = rows_words(result)
    if batching:
        lines.append(escape(batching))
    if copy_words(result):
        lines.append(escape(copy_words(result)))
    for name in ("profile", "report"):
        if result[name]:
            lines.append(f"{name}: {escape(str(result[name]))}")
    return Group(*lines)


def headline(result: Mapping[str, Any]) -> str:
    """What was gained, in one honest sentence of rich markup."""
    checked = result["verification"]
    ratio = checked["p99_ratio"]
    if ratio is None:
        return "the samples are too few to tell p99: raise --budget or --rate"
    if ratio["high"] < 1:
        said = (
            f"[green]p99 is {1 / ratio['point']:.2f} times shorter than the baseline's[/] "
            f"({1 / ratio['high']:.2f} to {1 / ratio['low']:.2f}, 99 % interval)"
        )
    else:
        said = f"p99 was not proven better: x{ratio['point']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    against = checked["reference_p99_ratio"]
    if against is not None:
        said += f"; x{against['point']:.2f} of the reference's ({against['low']:.2f} to {against['high']:.2f})"
    if "slo_met" in checked:
        words = {
            True: "[green]inside the deadline[/]",
            False: "[red]over the deadline[/]",
            None: "too near the deadline to tell",
        }
        said += f"; {words[checked['slo_met']]} of {result['objective']['slo_ms']:g} ms"
    return said


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
