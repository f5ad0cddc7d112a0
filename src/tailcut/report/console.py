"""The output of a tune on a terminal: a line for each candidate as it is judged, and a summary at the end."""

import time
from types import TracebackType
from typing import Self

from msgspec import UNSET
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from tailcut.lab.record import PERCENTILES
from tailcut.report import tune_words
from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.bench_words import LATE_ADVICE
from tailcut.report.terminal import output_console
from tailcut.report.tune_words import (
    UNCHANGED,
    arm_title,
    copy_words,
    cost_words,
    limits_words,
    more_traffic,
    noise_words,
    not_kept_words,
    offer_words,
    retune_words,
    rows_words,
    tie_words,
    unchanged_words,
    unmet_words,
)
from tailcut.report.words import client_cores, cpu, fixed_milliseconds, ratio
from tailcut.stats import samples_needed
from tailcut.tuner.events import (
    Best,
    CandidateDone,
    CandidateStarted,
    Estimated,
    Event,
    ExpectedTime,
    Phase,
    RungDone,
    RungStarted,
)
from tailcut.tuner.result_records import ArmFigures, Candidate, ComparisonResult, TuneResult, Verification

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
    """Prints events on stderr as they come, on a terminal with a progress line."""

    def __init__(self, budget_s: float, console: Console | None = None) -> None:
        self.console = console or output_console(stderr=True)
        self._whole_s = budget_s
        self._began = time.monotonic()
        self._phase, self._estimated, self._best = "", 0, ""
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
                self._phase = text
                self.console.print(f"[bold]{escape(text)}[/]")
            case Estimated(count):
                self._estimated += count
            case Best(setting, score):
                self._best = f"{setting}, {score}"
            case ExpectedTime(seconds):
                self._whole_s = seconds
            case RungStarted(name, candidates):
                self._phase = name
                self.console.print(f"[bold cyan]{escape(name)}[/] [dim]{candidates} to try[/]")
            case CandidateStarted(rung, setting):
                self._phase = f"{rung}: {setting}"
            case CandidateDone(_, candidate):
                self.console.print("  " + candidate_line(candidate))
            case RungDone(name, kept, note):
                output = f"[green]kept {escape(kept)}[/]" if kept else f"[dim]{escape(note or UNCHANGED)}[/]"
                self.console.print(f"  [bold]{escape(name)}[/]: {output}")
        if self._status is not None:
            self._status.update(self.progress(time.monotonic() - self._began))

    def progress(self, spent_s: float) -> str:
        """The progress in rich markup: the phase, configurations estimated, the time left, and the best so far."""
        left_s = max(0.0, self._whole_s - spent_s)
        parts = [escape(self._phase), f"{left_s:.0f} s left"]
        if self._estimated:
            parts.insert(1, f"{self._estimated:,} estimated")
        if self._best:
            parts.append(f"best: {escape(self._best)}")
        return f"{parts[0]} [dim]{' · '.join(parts[1:])}[/]"


def candidate_line(candidate: Candidate) -> str:
    """One candidate in one line of rich markup."""
    word = candidate.verdict
    return f"[{COLOURS[word]}]{word:10s}[/] {escape(candidate.setting)} [dim]{escape(candidate.reason)}[/]"


def tune_summary(result: TuneResult) -> RenderableType:
    """The verification as a table, the gain, and the files written."""
    checked = result.verification
    lines: list[RenderableType] = []
    if checked is None:
        lines.append("[yellow]not verified: interrupted before the end; the best settings so far were kept[/]")
    else:
        in_flight = f"req/s at {checked.clients} in flight"
        table = Table(title=f"verified at {result.objective.rate:,.6g} requests/s, latency in ms")
        failed = any(outcome.errors for outcome in checked.arms.values())
        columns = ("", "p50", "p95", "p99", "99 % interval", "samples", *["failed"] * failed, in_flight)
        for name in (*columns, "CPU per request", "client's cores"):
            table.add_column(name, justify="right" if name else "left")
        for arm, outcome in checked.arms.items():
            figures = [
                fixed_milliseconds(outcome.p50_ms),
                fixed_milliseconds(outcome.p95_ms),
                fixed_milliseconds(outcome.p99_ms),
                _spread(outcome),
            ]
            speed = _speed(outcome)
            counts = [f"{outcome.samples:,}", *[f"{outcome.errors:,}"] * failed]
            client = client_cores(outcome.client_cpu, outcome.client_cpu_closed)
            table.add_row(arm_title(arm, result), *figures, *counts, speed, cpu(outcome.cost), client)
        lines += [table, headline(result, checked)]
        more = more_traffic(result)
        if more:
            lines.append(f"[green]{escape(more)}[/]")
        if unmet_words(result):
            lines.append(f"[yellow]{escape(unmet_words(result))}[/]")
        notes = (tie_words(result), cost_words(result), limits_words(result))
        lines += [escape(words) for words in notes if words]
    lines += [f"[cyan]faster, but not accepted: {escape(words)}[/]" for words in offer_words(result)]
    accuracy = result.accuracy
    if accuracy is not None:
        answers = "; ".join(f"{words} {figure}" for words, figure in accuracy_figures(accuracy))
        if answers:
            lines.append(escape(f"answers: {answers}"))
        if random_words(accuracy):
            lines.append(f"[yellow]{escape(random_words(accuracy))}[/]")
    batching = rows_words(result)
    if batching:
        lines.append(escape(batching))
    lines += [escape(words) for words in (copy_words(result), retune_words(result), noise_words(result.noise)) if words]
    files = (("profile", result.profile), ("report", result.report))
    lines += [f"{name}: {escape(path)}" for name, path in files if path]
    return Group(*lines)


def comparison_summary(record: ComparisonResult) -> RenderableType:
    """Profiles compared with the first of them, as a table and a verdict for each."""
    table = Table(title=escape(f"{record.model} at {record.rate:,.6g} requests/s, latency in ms"))
    columns = ("profile", "p50", "p99", "99 % interval", "p99 ratio", f"req/s at {record.clients} in flight")
    failed = any(profile.errors for profile in record.profiles)
    for name in (*columns, "throughput ratio", *["failed"] * failed, "CPU per request"):
        table.add_column(name, justify="left" if name == "profile" else "right")
    lines: list[RenderableType] = [table]
    for profile in record.profiles:
        table.add_row(
            escape(profile.profile),
            fixed_milliseconds(profile.p50_ms),
            fixed_milliseconds(profile.p99_ms),
            _spread(profile),
            ratio(profile.ratios.get("p99")) if profile.verdict else "",
            _speed(profile),
            ratio(profile.throughput_ratio) if profile.verdict else "",
            *[f"{profile.errors:,}"] * failed,
            cpu(profile.cost),
        )
        name = escape(profile.profile)
        if profile.wrong:
            lines.append(f"[red]{name} gives wrong answers: {escape(profile.wrong)}[/]")
        elif profile.unchanged:
            lines.append(f"[dim]{name}: {UNCHANGED}: the same settings as the first profile[/]")
        elif profile.verdict:
            lines.append(f"[{COLOURS[profile.verdict]}]{name}: {profile.verdict}[/] {escape(profile.reason)}")
        if profile.slo_met is not UNSET:
            words = {True: "met", False: "missed", None: "inconclusive"}[profile.slo_met]
            lines.append(f"{name}: the limit of {record.objective.slo_ms:g} ms is {words}")
    noise = noise_words(record.noise)
    return Group(*lines, *([escape(noise)] if noise else []))


def headline(result: TuneResult, checked: Verification) -> str:
    """What was gained and proven, in one sentence of rich markup."""
    tail = checked.tail_ratio
    if result.not_kept:
        return f"[yellow]{escape(not_kept_words(result))}[/]"
    if tail is None:
        return checked.no_ratio_because or "too few samples to measure the tail: raise --budget or --rate"
    if result.unchanged:
        text = f"{UNCHANGED}: {unchanged_words(result)} {tail.of} x{tail.point:.2f} of the baseline's"
    elif tail.high < 1:
        text = (
            f"[green]{tail.of} is {1 / tail.point:.2f} times shorter than the baseline's[/] "
            f"({1 / tail.high:.2f} to {1 / tail.low:.2f}, 99 % interval)"
        )
    else:
        title, sentence = tune_words.headline(result)
        text = f"{title}: {sentence.removesuffix('.')}"
    against = checked.reference_p99_ratio
    if against is not None:
        text += f"; x{against.point:.2f} of the reference's ({against.low:.2f} to {against.high:.2f})"
    if checked.slo_met is not UNSET:
        text += f"; {_limit_words(checked.tuned, result.objective.slo_ms or 0.0, is_met=checked.slo_met)}"
    return text


def _limit_words(arm: ArmFigures, limit_ms: float, *, is_met: bool | None) -> str:
    """Whether the p99 is within its limit in ms; where neither is proven (None), why not, and what to do."""
    limit = f"the limit of {limit_ms:g} ms"
    if is_met is not None:
        return f"[green]within {limit}[/]" if is_met else f"[red]over {limit}[/]"
    if arm.p99_interval_ms is not None:
        why = f"the 99 % interval of p99 is {_spread(arm)} ms: raise --budget"
    elif arm.p50_ms is not None and arm.p50_ms > limit_ms:
        return f"[red]over {limit}: even p50 is {arm.p50_ms:.3f} ms[/]"
    elif arm.samples < (needed := samples_needed(PERCENTILES["p99"])):
        why = f"p99 needs {needed} samples, and there are {arm.samples:,}: raise --budget or --rate"
    elif arm.errors:
        why = f"{arm.errors:,} requests failed, so that p99 has no upper bound"
    else:
        why = f"the load client was late in most blocks: {LATE_ADVICE}"
    return f"it is unknown whether p99 is within {limit}: {why}"


def _spread(arm: ArmFigures) -> str:
    ends = arm.p99_interval_ms
    return "unknown" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _speed(arm: ArmFigures) -> str:
    return "unknown" if arm.throughput is None else f"{arm.throughput:,.0f}"
