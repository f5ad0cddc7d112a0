"""What a plan shows: tables on the terminal, and the values of its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.planning.records import Autoscaled, PlanResult, Predicted, ScalingMoment
from tailcut.report.charts import Chart, Point, Series, Tick, linear
from tailcut.report.words import count, milliseconds

_DRAWN = 72  # points of a course, each with a dot: means of as many of its parts as are needed
_SMALL = 2.6  # radius of such a dot


@dataclass(frozen=True, slots=True)
class PlanPage:
    """Everything the template shows."""

    headline: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, ...], ...]  # of `heads`
    heads: tuple[str, ...]
    curve: Chart | None
    scaling: Chart | None
    missed: Chart | None
    scaling_words: str
    assumptions: tuple[str, ...]


def plan_view(found: PlanResult) -> RenderableType:
    """The number of replicas, what they do and what is left when one is lost, the curve, and what it rests on."""
    head, lead = headline(found)
    lines: list[RenderableType] = [f"[bold]{escape(head)}[/]", escape(lead)]
    lines.append(_table("", heads(found), situation_rows(found)))
    if len(found.models) > 1:
        rows = [(one.name, f"{count(one.rate)}/s", *_latency_words(one.predicted)) for one in found.models]
        lines.append(_table("each model", ("model", "rate", "p99 ms", "limit's percentile ms"), rows))
    points = [(f"{one.replicas:,}", f"{one.cores:g}", count(one.rate)) for one in found.curve]
    lines.append(_table("highest rate within the limit", ("replicas", "cores", "requests/s"), points))
    lines += [
        escape(text) for text in (loss_words(found), scaling_words(found.autoscaling), price_words(found)) if text
    ]
    lines += [f"[dim]{escape(text)}[/]" for text in assumption_words(found)]
    return Group(*lines)


def headline(found: PlanResult) -> tuple[str, str]:
    """The number of replicas, and for what."""
    limits = ", ".join(
        f"{one.name} {one.percentile} within {one.limit_ms:g} ms"
        if len(found.models) > 1
        else f"{one.percentile} within {one.limit_ms:g} ms"
        for one in found.models
    )
    spare = found.replicas - found.needed
    what = f"{found.replicas:,} replica{'s' if found.replicas > 1 else ''}"
    what += f", {found.workers:,} workers" if found.assumptions.workers > 1 else ""
    what += f", {found.cores:g} cores"
    what += f", {found.gpus} GPU{'s' if found.gpus > 1 else ''}" if found.gpus else ""
    rest = f"; {found.needed:,} are enough" if spare else ""
    head = f"{what}{' (simulated)' if found.assumptions.simulated else ''}"
    rate = f"{count(found.predicted.rate)} requests/s and {100 * found.assumptions.headroom:g} % headroom"
    return head, f"for {rate}, {limits}{rest}"


def heads(found: PlanResult) -> tuple[str, ...]:
    """Of the table of situations."""
    percentile = found.models[0].percentile if len({one.percentile for one in found.models}) == 1 else "percentile"
    own = () if percentile == "p99" else (f"{percentile} ms",)
    return ("", "replicas", "requests/s", "p50 ms", "p99 ms", *own, "goodput", "busy", "limit")


def situation_rows(found: PlanResult) -> list[tuple[str, ...]]:
    """As planned, under stress, and with replicas lost."""
    wide = len(heads(found)) == 9
    rows = [_row("planned", found.replicas, found.predicted, wide=wide)]
    spare = found.replicas - found.needed
    stress = f"+{100 * found.assumptions.headroom:g} %" + (f", {spare} lost" if spare else "")
    rows.append(_row(stress, found.needed, found.stressed, wide=wide))
    return rows + [_row(f"{one.lost} lost", one.replicas, one.predicted, wide=wide) for one in found.losses]


def loss_words(found: PlanResult) -> str:
    """What goes with a replica that is lost."""
    if not found.losses:
        return "no replica may be lost: add --failures 1"
    return f"a replica that is lost takes the requests that it has with it: {found.losses[0].in_flight:.3g} on average"


def scaling_words(found: Autoscaled | None) -> str:
    """What the autoscaler made of the recording."""
    if found is None:
        return ""
    saved = 1 - found.replica_hours / found.fixed_replica_hours if found.fixed_replica_hours else 0.0
    unreached = found.metric == "utilisation" and found.target >= found.saturated
    words = f"; a replica's cores are never more than {100 * found.saturated:.0f} % busy: lower the target" * unreached
    target = f"{found.target:g} {'of the cores' if found.metric == 'utilisation' else 'requests in flight'}"
    return (
        f"autoscaler (target {target}): {found.missed:,} of {found.requests:,} requests missed the limit "
        f"({100 * found.missed_share:.3g} %); {found.replica_hours:,.4g} replica hours, {_than(saved)} than with "
        f"a fixed number; at most {found.highest} replicas, {found.changes} changes{words}"
    )


def _than(saved: float) -> str:
    return f"{100 * abs(saved):.0f} % {'fewer' if saved >= 0 else 'more'}"


def price_words(found: PlanResult) -> str:
    """What the replicas cost."""
    price = found.price
    if price is None:
        return ""
    million = "" if price.per_million is None else f", {price.per_million:,.4g} per million requests"
    return f"price: {price.per_hour:,.4g} per hour, {price.per_month:,.6g} per month{million}"


def assumption_words(found: PlanResult) -> list[str]:
    """Assumptions."""
    own = found.assumptions
    hedge = "" if own.hedge_ms is None else f", hedged after {own.hedge_ms:g} ms ({100 * own.hedged_share:.2g} %)"
    return [f"arrivals: {own.arrivals}; routing: {own.routing}{hedge}", *own.notes]


def page(found: PlanResult) -> PlanPage:
    """Everything that the page of a plan shows."""
    head, lead = headline(found)
    own = found.predicted
    facts = (
        ("p99", f"{milliseconds(own.p99_ms)} ms", "as planned"),
        ("goodput", f"{count(own.goodput)}/s", "answers within the limit"),
        ("busy", _share(own.utilisation), "of the cores, as planned"),
        ("a lone request", f"{milliseconds(max(one.lone_ms for one in found.models))} ms", "the limit's percentile"),
    )
    return PlanPage(
        head,
        f"{lead[0].upper()}{lead[1:]}.",
        facts,
        tuple(situation_rows(found)),
        heads(found),
        _curve(found),
        *_scaling(found.autoscaling),
        scaling_words(found.autoscaling),
        (loss_words(found), *filter(None, [price_words(found)]), *assumption_words(found)),
    )


def _curve(found: PlanResult) -> Chart | None:
    if len(found.curve) < 2:
        return None
    points = tuple(
        Point(one.replicas, one.rate, f"{one.replicas:,} replicas", f"{count(one.rate)} requests/s")
        for one in found.curve
    )
    highest = max(*(one.rate for one in found.curve), found.stressed.rate)
    return Chart(
        "Highest rate within the limit by number of replicas",
        linear(0, found.curve[-1].replicas, "replicas", lambda value: f"{value:g}"),
        linear(0, 1.05 * highest, "requests per second", count),
        (Series("within the limit", "c1", points),),
        Tick(found.predicted.rate, "planned rate"),
    )


def _scaling(found: Autoscaled | None) -> tuple[Chart | None, Chart | None]:
    """Replicas, and requests with those that were missed, over time."""
    if found is None or len(found.course) < 2:
        return None, None
    end_h = found.course[-1].at_s / 3600
    hours = linear(0, end_h, "hours", lambda value: f"{value:g}")
    moments = [(one.at_s / 3600, f"{one.at_s / 3600:.2f} h", one) for one in _thinned(found.course)]
    replicas = tuple(Point(x, one.replicas, key, f"{one.replicas:.3g} replicas", _SMALL) for x, key, one in moments)
    arrived = tuple(Point(x, one.rate, key, f"{count(one.rate)}/s arrive", _SMALL) for x, key, one in moments)
    missed = tuple(Point(x, one.missed, key, f"{count(one.missed)}/s missed", _SMALL) for x, key, one in moments)
    most = max(one.rate for one in found.course)
    return (
        Chart(
            "Replicas over time",
            hours,
            linear(0, found.highest + 1, "replicas", lambda value: f"{value:g}"),
            (Series("replicas", "c1", replicas),),
        ),
        Chart(
            "Requests per second over time",
            hours,
            linear(0, 1.05 * most or 1.0, "requests per second", count),
            (Series("arrived", "c2", arrived), Series("missed the limit", "c3", missed)),
        ),
    )


def _thinned(course: Sequence[ScalingMoment]) -> list[ScalingMoment]:
    """Means of parts of the course that follow each other; latencies are left out."""
    step = -(-len(course) // _DRAWN)
    groups = [course[first : first + step] for first in range(0, len(course), step)]
    return [
        ScalingMoment(
            group[0].at_s,
            sum(one.rate for one in group) / len(group),
            sum(one.replicas for one in group) / len(group),
            None,
            sum(one.missed for one in group) / len(group),
        )
        for group in groups
    ]


def _row(name: str, replicas: int, one: Predicted, *, wide: bool) -> tuple[str, ...]:
    own = (milliseconds(one.at_ms) if one.at_ms is not None else "refused",) if wide else ()
    figures = (_ms(one.p50_ms), _ms(one.p99_ms), *own, f"{count(one.goodput)}/s", _share(one.utilisation))
    return (name, f"{replicas:,}", count(one.rate), *figures, "met" if one.within else "missed")


def _latency_words(one: Predicted) -> tuple[str, str]:
    return _ms(one.p99_ms), _ms(one.at_ms)


def _ms(value: float | None) -> str:
    return "refused" if value is None else milliseconds(value)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title or None)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
