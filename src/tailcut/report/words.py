"""Figures as every report writes them; what is unknown is said to be."""

from collections.abc import Mapping
from typing import Any

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


def ratio(value: Mapping[str, float] | None, digits: int = 2) -> str:
    """A ratio with its interval."""
    if value is None:
        return "unknown"
    return f"x{value['point']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def bounds(interval: Mapping[str, float] | None) -> str:
    """An interval of nanoseconds, without its point."""
    return "unknown" if interval is None else f"{nanoseconds(interval['low'])} to {nanoseconds(interval['high'])}"


def load(run: Mapping[str, object]) -> str:
    """What a run of a load test offered."""
    if run["mode"] == "closed":
        return f"{run['concurrency']} in flight"
    offered, arrivals = run["rate_offered"], run.get("arrivals")
    if not isinstance(offered, int | float):
        return "all at once"
    kind = "" if arrivals in {None, "poisson"} else f", {arrivals}"
    return f"{mixed_model(run)}{offered:,.6g}/s offered{kind}"


def mixed_model(run: Mapping[str, object]) -> str:
    """The name of a run's model in front of its load, where several models were asked at once."""
    return f"{run['model']}: " if run.get("mixed") else ""


def own_figures(run: Mapping[str, Any]) -> list[str]:
    """What a run says of its client: lateness in ms at p99, which a closed loop has not, and the CPUs that it took."""
    late = "-" if run.get("mode") == "closed" else f"{run['client_lateness_p99_ms']:.3f}"
    return [late, f"{run['client_cpu']:.2f}"]


def has_lengths(run: Mapping[str, Any]) -> bool:
    """Whether requests of several lengths were sent; older results do not say."""
    lengths = run.get("lengths") or {"min": 0, "max": 0}
    return bool(lengths["min"] < lengths["max"])


def length_words(lengths: Mapping[str, Any]) -> str:
    """Which lengths were sent."""
    unit = " bytes" if lengths["unit"] == "bytes" else ""
    return (
        f"{lengths['input']} of length {lengths['min']:,} to {lengths['max']:,}{unit}, median {lengths['p50']:,}, "
        f"p99 {lengths['p99']:,}"
    )


def length_range(part: Mapping[str, Any]) -> str:
    """The lengths of one quarter."""
    return f"{part['from']:,}" if part["from"] == part["to"] else f"{part['from']:,} to {part['to']:,}"


def cpu(cost: Mapping[str, float | None] | None) -> str:
    """The processor time in the cost of a request."""
    return nanoseconds(None if cost is None else cost["cpu_ns"])


def costs(cost: Mapping[str, float | None] | None) -> list[str]:
    """The cost of a request under `COST_TITLES`."""
    known = cost or dict.fromkeys(("cpu_ns", "waited_ns", "context_switches", "page_faults"))
    times = [nanoseconds(known[name]) for name in ("cpu_ns", "waited_ns")]
    return times + [count(known[name]) for name in ("context_switches", "page_faults")]
