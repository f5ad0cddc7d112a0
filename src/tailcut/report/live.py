"""A running server in a terminal: the figures of one second as tables that fit its size, or as a line per model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tailcut.live.records import About, DoctorFinding, ModelView, View
from tailcut.report.words import count, nanoseconds
from tailcut.runtime.tracing.records import SlowRequest
from tailcut.runtime.tracing.timeline import MARKS, STAGES

_KEPT_S = 60.0
_SLOW = 5
_MODELS = 20
_NAME = 6  # characters of a name at least
_DETAILS = 60  # least columns for showing rows, batches and settings
_SIZES = 6  # batch sizes that are listed; more are grouped
_BARS = " ▁▂▃▄▅▆▇█"
_COLOURS = {"warning": "yellow", "fault": "red"}


@dataclass(slots=True)
class Screen:
    """The state of the display: the newest view, and what is kept of earlier ones."""

    title: str
    about: About | None = None
    findings: Sequence[DoctorFinding] = ()
    view: View | None = None
    rates: list[tuple[float, float]] = field(default_factory=list)  # clock and rate, of the last minute
    slow: list[tuple[str, SlowRequest]] = field(default_factory=list)  # with the model's name

    def add(self, view: View) -> None:
        """Add the next view, and drop what is older than a minute."""
        self.view = view
        begin = view.clock_s - _KEPT_S
        self.rates = [entry for entry in [*self.rates, (view.clock_s, view.rate)] if entry[0] > begin]
        requests = [*self.slow, *((model.name, request) for model in view.models for request in model.slow)]
        kept = [entry for entry in requests if entry[1].start_ns / 1e9 > begin]
        self.slow = sorted(kept, key=lambda entry: -entry[1].marks_us["written"])[:_SLOW]


def live_screen(screen: Screen, width: int, height: int | None = None, *, bars: bool = True) -> RenderableType:
    """The display of a server, as far as it fits.

    Args:
        screen: the state to show.
        width: columns of the terminal.
        height: lines of the terminal, None for no limit. Rows, batches and settings are left out if they do not fit.
        bars: whether the terminal can show block characters.
    """
    view = screen.view
    if view is None:
        return Text(f"{screen.title}: waiting for the first second")
    state = "serving" if view.ready else "not ready"
    lines: list[RenderableType] = [
        f"[bold]{escape(screen.title)}[/] {state}; {view.seconds:.1f} s, percentiles over {view.window_s:.0f} s",
        _totals(view),
    ]
    if bars and len(screen.rates) > 1:
        lines.append(_history(screen.rates, view.clock_s, width))
    lines.append(_table(_MODEL_COLUMNS, view.models[:_MODELS], width))
    details_at = len(lines)
    hidden = view.models_left_out + max(0, len(view.models) - _MODELS)
    if hidden:
        lines.append(f"{hidden} further models had fewer requests")
    for model in view.models:
        if model.steps:
            lines += [f"steps of {escape(model.name)}", _table(_STEP_COLUMNS, model.steps, width)]
    if screen.slow:
        lines.append("slowest of the last minute")
        lines += [Text(_slow_line(*entry, view.clock_s), overflow="ellipsis", no_wrap=True) for entry in screen.slow]
    if len(view.processes) > 1:
        lines.append(_table(_PROCESS_COLUMNS, view.processes, width))
    settings_at = len(lines)
    lines += [
        f"[{_COLOURS[check.severity]}]{check.severity}[/] {check.name}: {escape(check.finding)}"
        for check in screen.findings
        if check.severity in _COLOURS
    ]
    if width < _DETAILS:
        return Group(*lines)
    room = None if height is None else height - _height(lines, width)
    rows, room = _fitting(_row_lines(screen, view), width, room)
    settings, _ = _fitting(_setting_lines(screen), width, room)
    return Group(*lines[:details_at], *rows, *lines[details_at:settings_at], *settings, *lines[settings_at:])


def _batch_words(model: ModelView) -> str:
    return "" if model.batch_rows is None else f"{count(model.batch_rows)} rows per batch, "


def live_lines(view: View) -> list[str]:
    """A line for each model."""
    return [
        f"{model.name}: {count(model.rate)} requests/s, p50 {_percentile(model, 'p50_us')}, "
        f"p95 {_percentile(model, 'p95_us')}, p99 {_percentile(model, 'p99_us')}, {count(model.queued)} waiting, "
        f"{_batch_words(model)}{count(_lost(model))} not answered"
        for model in view.models
    ]


def _totals(view: View) -> str:
    memory = [process.memory_bytes for process in view.processes if process.memory_bytes is not None]
    cpus = [process.cpus for process in view.processes if process.cpus is not None]
    lost = sum(map(_lost, view.models))
    parts = [
        f"{count(view.rate)} requests/s",
        f"{count(sum(model.queued for model in view.models))} waiting",
        f"[red]{count(lost)} not answered[/]" if lost else "0 not answered",
        f"{count(view.connections)} connections ({count(view.fast_path)} on the fast path)",
    ]
    if memory:
        parts.append(f"{sum(memory) / (1 << 20):,.0f} MiB")
    if cpus:
        parts.append(f"{sum(cpus):.2f} CPUs")
    if view.throttled_ms:
        parts.append(f"[yellow]throttled by the CPU quota for {view.throttled_ms:,.0f} ms[/]")
    return ", ".join(parts)


def _row_lines(screen: Screen, view: View) -> list[Text]:
    """For each model, the rows waiting and in use, and the sizes of its batches."""
    known = (
        {(model.name, model.version): model.rows for model in screen.about.models} if screen.about is not None else {}
    )
    lines = []
    for model in view.models[:_MODELS]:
        rows = known.get((model.name, model.version))
        of = f" of {count(rows * len(view.processes))}" if rows else ""
        parts = [f"rows of {model.name}: {count(model.queued_rows)} waiting, {count(model.rows_in_use)}{of} in use"]
        lines.append(Text("; ".join([*parts, *_sizes(model)])))
    return lines


def _sizes(model: ModelView) -> list[str]:
    """The share of batches of each size; many sizes are grouped between powers of two."""
    sizes = {(rows, rows): batches for rows, batches in model.batch_sizes.items() if batches}
    if len(sizes) > _SIZES:
        ranges: dict[tuple[int, int], int] = {}
        for (rows, _), batches in sizes.items():
            most = 1 << max(0, rows - 1).bit_length()
            bounds = (most // 2 + 1, most) if most > 1 else (rows, rows)
            ranges[bounds] = ranges.get(bounds, 0) + batches
        sizes = ranges
    total = sum(sizes.values())
    shares = [f"{_rows(*size)} {100 * batches / total:.0f} %" for size, batches in sorted(sizes.items())]
    return [f"batches: {', '.join(shares)}"] if shares else []


def _rows(first: int, last: int) -> str:
    if first < last:
        return f"{first} to {last} rows"
    return "1 row" if first == 1 else f"{first} rows"


def _setting_lines(screen: Screen) -> list[Text]:
    """For each model, the settings that differ from the defaults."""
    models = screen.about.models[:_MODELS] if screen.about is not None else []
    changed = [(model.name, [f"{name}={model.settings[name]}" for name in model.changed]) for model in models]
    return [Text(f"settings of {name}: {', '.join(settings) or 'defaults'}") for name, settings in changed]


def _fitting(lines: Sequence[Text], width: int, room: int | None) -> tuple[Sequence[Text], int | None]:
    """The lines if all of them fit, else none; and the lines left on the screen, None for no limit."""
    if room is None:
        return lines, None
    left = room - _height(lines, width)
    return (lines, left) if left >= 0 else ((), room)


def _height(lines: Iterable[RenderableType], width: int) -> int:
    """How many lines a terminal of this width needs."""
    console = Console(width=width, file=StringIO())
    return sum(len(console.render_lines(line, pad=False)) for line in lines)


def _history(rates: Sequence[tuple[float, float]], now_s: float, width: int) -> Text:
    """The rates of the last minute as bars, one per second, with a gap where none is known."""
    most = max(rate for _, rate in rates)
    label = f" up to {count(most)} requests/s"
    seconds = max(5, min(60, width - len(label)))
    cells = [" "] * seconds
    for clock_s, rate in rates:
        index = seconds - 1 - round(now_s - clock_s)
        if 0 <= index < seconds:
            cells[index] = _BARS[max(1, round(rate / most * (len(_BARS) - 1)))] if rate else _BARS[1]
    return Text("".join(cells) + label, no_wrap=True, overflow="crop")


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    cell: Callable[[ModelView], str] | Callable[..., str]
    from_width: int = 0  # of the terminal


def _table(columns: Sequence[_Column], rows: Iterable[object], width: int) -> Table:
    shown = [column for column in columns if width >= column.from_width]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(shown[0].head, no_wrap=True, overflow="ellipsis", max_width=max(_NAME, width // 4))
    for column in shown[1:]:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(column.cell(row)) for column in shown))  # type: ignore[arg-type]  # of one kind
    return table


def _percentile(model: ModelView, name: str) -> str:
    if not model.recent.requests:
        return "no requests"
    value = getattr(model.recent, name)
    return "too few" if value is None else _time(value)


def _time(us: float | None) -> str:
    return "-" if us is None else nanoseconds(us * 1e3)


def _lost(model: ModelView) -> int:
    return model.failed + model.refused + model.expired


def _slow_line(name: str, request: SlowRequest, now_s: float) -> str:
    marks = [request.marks_us[mark] for mark in MARKS]
    spent = sorted(
        ((end - begin, stage) for stage, (begin, end) in zip(STAGES, pairwise(marks), strict=True)), reverse=True
    )
    stages = ", ".join(f"{stage} {_time(us)}" for us, stage in spent[:2] if us > 0)
    events = f", with {', '.join(kind.replace('_', ' ') for kind in request.coincided)}" if request.coincided else ""
    ago = max(0, round(now_s - request.start_ns / 1e9))
    rows = f"{request.rows} of {request.batch_rows} rows"
    return f"  {_time(marks[-1]):>9}  {ago:>2} s ago  {name}: {stages}; {rows}{events}"


_MODEL_COLUMNS = (
    _Column("model", lambda model: model.name),
    _Column("req/s", lambda model: count(model.rate)),
    _Column("p50", lambda model: _percentile(model, "p50_us")),
    _Column("p95", lambda model: _percentile(model, "p95_us"), 62),
    _Column("p99", lambda model: _percentile(model, "p99_us")),
    _Column("waiting", lambda model: count(model.queued), 50),
    _Column("rows/batch", lambda model: "-" if model.batch_rows is None else count(model.batch_rows), 76),
    _Column("lost", lambda model: count(_lost(model)), 76),
    _Column("busy", lambda model: f"{model.busy:.2f}", 90),
    _Column("slowest", lambda model: _time(model.slowest_us), 100),
)
_STEP_COLUMNS = (
    _Column("step", lambda step: step.name),
    _Column("req/s", lambda step: count(step.rate)),
    _Column("wait", lambda step: _time(step.queue_us)),
    _Column("time", lambda step: _time(step.compute_us)),
    _Column("waiting", lambda step: count(step.queued), 50),
    _Column("failed", lambda step: count(step.failed), 62),
    _Column("restarts", lambda step: count(step.restarts), 76),
)
_PROCESS_COLUMNS = (
    _Column("process", lambda process: str(process.pid)),
    _Column("req/s", lambda process: count(process.rate)),
    _Column("connections", lambda process: count(process.connections), 50),
    _Column("CPUs", lambda process: "-" if process.cpus is None else f"{process.cpus:.2f}"),
    _Column(
        "memory",
        lambda process: "-" if process.memory_bytes is None else f"{process.memory_bytes / (1 << 20):,.0f} MiB",
    ),
)
