"""Figures as all reports write them; None is written as "unknown"."""

from tailcut.lab.records import Bounds, Cost, IntervalRecord, LengthQuartile, Lengths, Run, SearchPoint

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
COST_TITLES = ("Server CPU per request", "Ready without a core", "Switches", "Page faults")


def milliseconds(value: float | None) -> str:
    """Milliseconds to about four significant digits."""
    if value is None:
        return "unknown"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def round_milliseconds(value: float) -> str:
    """A round number of milliseconds, for an axis."""
    return f"{value:g} ms"


def with_unit(value: float) -> str:
    """Milliseconds with their unit."""
    return f"{milliseconds(value)} ms"


def milliseconds_between(ends: Bounds | None) -> str:
    """An interval in milliseconds."""
    return "unknown" if ends is None else f"{milliseconds(ends[0])} to {milliseconds(ends[1])}"


def fixed_milliseconds(value: float | None) -> str:
    """Milliseconds with three decimals, for the columns of a terminal."""
    return "unknown" if value is None else f"{value:.3f}"


def nanoseconds(value: float | None) -> str:
    """A time in the unit that suits it, to four digits."""
    if value is None:
        return "unknown"
    size, unit = next(((size, unit) for size, unit in _TIMES if abs(value) >= size), _TIMES[-1])
    return f"{value / size:.4g} {unit}"


def capitalized(text: str) -> str:
    """A text with its first letter capitalised; unlike `str.capitalize`, it leaves the rest as it is."""
    return text[:1].upper() + text[1:]


def count(value: float | None) -> str:
    """A count, or a rate per second, as text."""
    return "unknown" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.4g}"


def ratio(value: IntervalRecord | None, digits: int = 2) -> str:
    """A ratio with its interval."""
    if value is None:
        return "unknown"
    return f"x{value.point:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def bounds(interval: IntervalRecord | None) -> str:
    """The bounds of an interval of nanoseconds, without its point."""
    return "unknown" if interval is None else f"{nanoseconds(interval.low)} to {nanoseconds(interval.high)}"


def load(run: Run, form: str = ",.6g") -> str:
    """The load of a run of a load test, and the model in a mix."""
    if run.mode == "closed":
        return f"{run.concurrency} in flight"
    if run.rate_offered is None:
        return "all at once"
    model = f"{run.model}: " if run.mixed else ""
    kind = "" if run.arrivals in {None, "poisson"} else f", {run.arrivals}"
    return f"{model}{run.rate_offered:{form}}/s offered{kind}"


def own_figures(run: Run | SearchPoint) -> list[str]:
    """The client's figures of a run: its p99 lateness in ms, which a closed loop has not, and the CPUs it used."""
    is_closed = isinstance(run, Run) and run.mode == "closed"
    return ["-" if is_closed else f"{run.client_lateness_p99_ms:.3f}", f"{run.client_cpu:.2f}"]


def length_words(lengths: Lengths) -> str:
    """The distribution of the lengths that were sent."""
    unit = " bytes" if lengths.unit == "bytes" else ""
    return (
        f"{lengths.input} of length {lengths.min:,} to {lengths.max:,}{unit}, median {lengths.p50:,}, "
        f"p99 {lengths.p99:,}"
    )


def length_range(part: LengthQuartile) -> str:
    """The lengths of one quarter."""
    return f"{part.from_:,}" if part.from_ == part.to else f"{part.from_:,} to {part.to:,}"


def cpu(cost: Cost | None) -> str:
    """The CPU time in the cost of a request."""
    return nanoseconds(None if cost is None else cost.cpu_ns)


def client_cores(open_loop: float | None, closed_loop: float | None) -> str:
    """The cores that the load client kept busy, in open and in closed loops."""
    return " / ".join("unknown" if cores is None else f"{cores:.2f}" for cores in (open_loop, closed_loop))


def costs(cost: Cost | None) -> list[str]:
    """The cost of a request under `COST_TITLES`."""
    if cost is None:
        return ["unknown"] * len(COST_TITLES)
    times = [nanoseconds(cost.cpu_ns), nanoseconds(cost.waited_ns)]
    return [*times, count(cost.context_switches), count(cost.page_faults)]
