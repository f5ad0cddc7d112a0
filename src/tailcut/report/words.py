"""Figures as every report writes them; what is unknown is said to be."""

from collections.abc import Mapping

from tailcut.lab.records import Cost, CurvePoint, Interval, LengthQuartile, Lengths, Run

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
COST_TITLES = ("Server CPU a request", "Ready without a core", "Switches", "Page faults")


def milliseconds(value: float | None) -> str:
    """Milliseconds to about four digits."""
    if value is None:
        return "unknown"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def round_milliseconds(value: float) -> str:
    """A round number of milliseconds, as axes have them."""
    return f"{value:g} ms"


def nanoseconds(value: float | None) -> str:
    """A time in the unit that suits it, to four digits."""
    if value is None:
        return "unknown"
    size, unit = next(((size, unit) for size, unit in _TIMES if abs(value) >= size), _TIMES[-1])
    return f"{value / size:.4g} {unit}"


def count(value: float | None) -> str:
    """A number of things, or of things per second."""
    return "unknown" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.4g}"


def interval_of(value: Interval | Mapping[str, float]) -> Interval:
    """An interval."""
    return value if isinstance(value, Interval) else Interval(value["point"], value["low"], value["high"])


def ratio(value: Interval | Mapping[str, float] | None, digits: int = 2) -> str:
    """A ratio with its interval."""
    if value is None:
        return "unknown"
    value = interval_of(value)
    return f"x{value.point:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def bounds(interval: Interval | None) -> str:
    """An interval of nanoseconds, without its point."""
    return "unknown" if interval is None else f"{nanoseconds(interval.low)} to {nanoseconds(interval.high)}"


def load(run: Run, form: str = ",.6g") -> str:
    """What a run of a load test offered, and to which of the models in a mix."""
    if run.mode == "closed":
        return f"{run.concurrency} in flight"
    if run.rate_offered is None:
        return "all at once"
    model = f"{run.model}: " if run.mixed else ""
    kind = "" if run.arrivals in {None, "poisson"} else f", {run.arrivals}"
    return f"{model}{run.rate_offered:{form}}/s offered{kind}"


def own_figures(run: Run | CurvePoint) -> list[str]:
    """What a run says of its client: lateness in ms at p99, which a closed loop has not, and the CPUs that it took."""
    is_closed = isinstance(run, Run) and run.mode == "closed"
    return ["-" if is_closed else f"{run.client_lateness_p99_ms:.3f}", f"{run.client_cpu:.2f}"]


def length_words(lengths: Lengths) -> str:
    """Which lengths were sent."""
    unit = " bytes" if lengths.unit == "bytes" else ""
    return (
        f"{lengths.input} of length {lengths.min:,} to {lengths.max:,}{unit}, median {lengths.p50:,}, "
        f"p99 {lengths.p99:,}"
    )


def length_range(part: LengthQuartile) -> str:
    """The lengths of one quarter."""
    return f"{part.from_:,}" if part.from_ == part.to else f"{part.from_:,} to {part.to:,}"


def cost_of(cost: Cost | Mapping[str, float | None] | None) -> Cost | None:
    """A cost."""
    return (
        cost if cost is None or isinstance(cost, Cost) else Cost(*(cost.get(name) for name in Cost.__struct_fields__))
    )


def cpu(cost: Cost | Mapping[str, float | None] | None) -> str:
    """The processor time in the cost of a request."""
    known = cost_of(cost)
    return nanoseconds(None if known is None else known.cpu_ns)


def costs(cost: Cost | Mapping[str, float | None] | None) -> list[str]:
    """The cost of a request under `COST_TITLES`."""
    known = cost_of(cost)
    if known is None:
        return ["unknown"] * len(COST_TITLES)
    times = [nanoseconds(known.cpu_ns), nanoseconds(known.waited_ns)]
    return [*times, count(known.context_switches), count(known.page_faults)]
