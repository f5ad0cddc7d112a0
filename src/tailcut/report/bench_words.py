"""Text of a load test's reports, above all in place of unknown percentiles: a bound, or the samples that are needed."""

from collections.abc import Callable, Sequence
from math import ceil

from tailcut.lab.record import PERCENTILES
from tailcut.lab.records import Lengths, Run, ScenarioResult, SearchPoint
from tailcut.report.words import milliseconds
from tailcut.stats import samples_needed

LATE_ADVICE = "lower the rate, or give the client a core of its own"
_NEEDED = samples_needed(PERCENTILES["p99"])
_LOST = 0.05  # share of requests without an answer from which the rate, not a broken connection, is the cause
_SPARE = 1.1  # times the samples that are needed, because arrivals are random
_BUSY = 0.9  # of a core per client process: with more, the client may be the bottleneck
_SINGLY = 3  # up to this many late runs have a line each; more share one
_Form = Callable[[float], str]


def percentile_words(run: Run | SearchPoint, name: str, form: _Form = milliseconds) -> str:
    """A percentile of a run, or why there is none."""
    return _known_or_why(run, name, getattr(run.latency_ms, name), form)


def interval_words(run: Run | SearchPoint, form: _Form = milliseconds, to: str = " to ") -> str:
    """The interval of a run's p99, or its bound if the client was late; "-" without either."""
    if run.p99_interval_ms is not None:
        return to.join(map(form, run.p99_interval_ms))
    return "-" if run.p99_at_most_ms is None else f"at most {form(run.p99_at_most_ms)}"


def longest_words(run: Run, form: _Form = milliseconds) -> str:
    """The longest latency of a run; "-" if no request was answered, or the client was late."""
    return "-" if run.latency_ms.max is None else form(run.latency_ms.max)


def length_figures(run: Run, lengths: Lengths, form: _Form = milliseconds) -> list[list[str]]:
    """p50, p95 and p99 of each quarter of the requests by length."""
    return [
        [_known_or_why(run, name, getattr(part.latency_ms, name), form) for name in ("p50", "p95", "p99")]
        for part in lengths.quartiles
    ]


def scenario_value(scenario: ScenarioResult, form: _Form) -> str:
    """The metric of a named scenario, or why there is none."""
    if scenario.value is not None:
        return form(scenario.value)
    q = {"p90_ms": 0.90, "p99_ms": 0.99}.get(scenario.metric)
    return "not shown" if q is None else f"needs {samples_needed(q)} samples: use a longer --duration"


def unknown_headline(runs: Sequence[Run]) -> str:
    """The headline if the p99 of no run is known: its bound, or how long a run has to be."""
    bounds = sorted(run.p99_at_most_ms for run in runs if run.p99_at_most_ms is not None)
    if bounds:
        return _at_most(bounds[0], bounds[-1])
    slowest = min((run for run in runs if _rate(run)), key=_rate, default=None)
    return f"p99 needs {_NEEDED} samples{'' if slowest is None else _advice(slowest)}"


def doubt(run: Run | SearchPoint) -> str:
    """Why a run's percentiles are unknown or doubtful; empty if they are neither."""
    if run.client_behind:
        most = run.p99_at_most_ms
        bound = "" if most is None else f"{_at_most(most, most)}: "
        late = f"p99 {run.client_lateness_p99_ms} ms"
        behind = f"{bound}the client itself fell behind its schedule ({late}), so percentiles would not be the server's"
        return behind if most is not None else f"{behind}{_too_few(run)}"
    if unanswered := _unanswered(run):
        return unanswered
    if run.latency_ms.p99 is None:
        return _too_few(run).removeprefix("; ") or f"a p99 needs {_NEEDED} samples"
    if isinstance(run, Run) and run.client_cpu > _BUSY * run.client_processes:
        return (
            f"the client kept {run.client_cpu:.2f} cores busy with {run.client_processes} processes, so it may be the "
            f"bottleneck: {'lower the rate' if run.mixed else 'add --processes auto'}"
        )
    return ""


def _unanswered(run: Run | SearchPoint) -> str:
    """A message that a rate exceeds the server's capacity, if many requests timed out; else empty."""
    lost, asked = run.errors.get("timeout", 0), run.samples + sum(run.errors.values())
    if run.rate_offered is None or lost <= _LOST * asked:
        return ""
    return (
        f"{lost:,} of {asked:,} requests were not answered: {run.rate_offered:,.6g} requests/s are more than the "
        "server can sustain"
    )


def doubts(named: Sequence[tuple[str, Run | SearchPoint]]) -> list[str]:
    """The doubts of several runs, each after its name; many late runs share a line."""
    late = [run for _, run in named if run.client_behind]
    lines = []
    if len(late) > _SINGLY:
        behind_ms = [run.client_lateness_p99_ms for run in late]
        bounds = sorted(run.p99_at_most_ms for run in late if run.p99_at_most_ms is not None)
        slowest = min((run for run in late if _rate(run)), key=_rate, default=late[0])
        bound = f"; {_at_most(bounds[0], bounds[-1])}" if bounds else _too_few(slowest)
        lines.append(
            f"in {len(late)} of {len(named)} runs the client itself fell behind its schedule (p99 {min(behind_ms)} to "
            f"{max(behind_ms)} ms), so their percentiles would not be the server's{bound}"
        )
        named = [(name, run) for name, run in named if not run.client_behind]
    return lines + [f"{name}: {words}" for name, run in named if (words := doubt(run))]


def late_causes(late: Sequence[Run | SearchPoint]) -> list[str]:
    """Why the client was late, each cause once."""
    return [f"the client was late: {text}" for text in dict.fromkeys(run.late_because or LATE_ADVICE for run in late)]


def _known_or_why(run: Run | SearchPoint, name: str, value: float | None, form: _Form) -> str:
    if value is not None:
        return form(value)
    return "client late" if run.client_behind else f"needs {samples_needed(PERCENTILES[name]):,}"


def _too_few(run: Run | SearchPoint) -> str:
    """How many samples a run lacks for a p99 or its bound, after a semicolon; empty if none."""
    if run.samples >= _NEEDED:
        return ""
    return f"; a p99 needs {_NEEDED} samples, and there are {run.samples:,}{_advice(run)}"


def _at_most(least_ms: float, most_ms: float) -> str:
    low, high = milliseconds(least_ms), milliseconds(most_ms)
    return f"p99 at most {high if low == high else f'{low} to {high}'} ms, client lateness included"


def _rate(run: Run | SearchPoint) -> float:
    """Expected answers per second: the rate offered, as a short open loop's own rate varies, unless requests failed."""
    return run.rate_achieved if run.rate_offered is None or run.errors else run.rate_offered


def _advice(run: Run | SearchPoint) -> str:
    """How to get enough samples for a p99, after a colon; empty if no request was answered."""
    rate = _rate(run)
    if not rate:
        return ""
    if isinstance(run, Run) and run.mode == "open" and run.rate_offered is None:
        return ": use more --samples"
    if isinstance(run, Run) and run.arrivals == "trace":
        return ": use a longer trace"
    return f": use --duration {ceil(_SPARE * _NEEDED / rate)}s"
