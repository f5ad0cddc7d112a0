"""The output of `tailcut plan`: tables for the terminal, and the values of its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.planning.records import Autoscaled, PlannedFigures, PlanResult, ScalingMoment
from tailcut.planning.words import number, several
from tailcut.report.charts import Chart, Point, Series, Tick, linear
from tailcut.report.words import capitalized, count, milliseconds

_DRAWN = 72  # points of a curve over time, at most; more are averaged in groups
_SMALL = 2.6  # radius of such a dot


@dataclass(frozen=True, slots=True)
class PlanPage:
    """The values for the template."""

    headline: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, ...], ...]  # with a cell for each of `heads`
    heads: tuple[str, ...]
    curve: Chart | None
    scaling: Chart | None
    missed: Chart | None
    scaling_words: str
    assumptions: tuple[str, ...]


def plan_view(result: PlanResult) -> RenderableType:
    """The number of replicas, their performance as planned and with replicas lost, the curve, and the assumptions."""
    head, lead = headline(result)
    lines: list[RenderableType] = [f"[bold]{escape(head)}[/]", escape(lead)]
    lines.append(_table("", heads(result), situation_rows(result)))
    if len(result.models) > 1:
        rows = [(model.name, f"{count(model.rate)}/s", *_latency_words(model.predicted)) for model in result.models]
        lines.append(_table("each model", ("model", "rate", "p99 ms", "limit's percentile ms"), rows))
    points = [(f"{point.replicas:,}", number(point.cores), count(point.rate)) for point in result.curve]
    lines.append(_table("highest rate within the limit", ("replicas", "cores", "requests/s"), points))
    lines += [
        escape(text) for text in (loss_words(result), scaling_words(result.autoscaling), price_words(result)) if text
    ]
    lines += [f"[dim]{escape(text)}[/]" for text in assumption_words(result)]
    return Group(*lines)


def headline(result: PlanResult) -> tuple[str, str]:
    """The title and lead: the number of replicas, and the load and limits that it is for."""
    limits = ", ".join(
        f"{model.name} {model.percentile} within {number(model.limit_ms, 6)} ms"
        if len(result.models) > 1
        else f"{model.percentile} within {number(model.limit_ms, 6)} ms"
        for model in result.models
    )
    spare = result.replicas - result.needed
    what = several(result.replicas, "replica")
    what += f", {several(result.workers, 'worker')}" if result.assumptions.workers > 1 else ""
    what += f", {several(result.cores, 'core')}"
    what += f", {several(result.gpus, 'GPU')}" if result.gpus else ""
    rest = f"; {result.needed:,} {'is' if result.needed == 1 else 'are'} enough" if spare else ""
    head = f"{what}{' (simulated)' if result.assumptions.simulated else ''}"
    rate = f"{count(result.predicted.rate)} requests/s and {number(100 * result.assumptions.headroom)} % headroom"
    return head, f"for {rate}, {limits}{rest}"


def heads(result: PlanResult) -> tuple[str, ...]:
    """The heads of the table of situations."""
    percentile = (
        result.models[0].percentile if len({model.percentile for model in result.models}) == 1 else "percentile"
    )
    own = () if percentile == "p99" else (f"{percentile} ms",)
    return ("", "replicas", "requests/s", "p50 ms", "p99 ms", *own, "goodput", "busy", "limit")


def situation_rows(result: PlanResult) -> list[tuple[str, ...]]:
    """The rows of the table of situations: as planned, under stress, and with replicas lost."""
    wide = len(heads(result)) == 9
    rows = [_row("planned", result.replicas, result.predicted, wide=wide)]
    spare = result.replicas - result.needed
    stress = f"+{number(100 * result.assumptions.headroom)} %" + (f", {spare} lost" if spare else "")
    rows.append(_row(stress, result.needed, result.stressed, wide=wide))
    return rows + [_row(f"{loss.lost} lost", loss.replicas, loss.predicted, wide=wide) for loss in result.losses]


def loss_words(result: PlanResult) -> str:
    """What is lost with a replica, as text."""
    if not result.losses:
        return "no replica may be lost: add --failures 1"
    in_flight = number(result.losses[0].in_flight, 3)
    return f"if a replica is lost, so are its requests in flight: {in_flight} on average"


def scaling_words(result: Autoscaled | None) -> str:
    """The outcome of autoscaling on the recording, as text; empty without autoscaling."""
    if result is None:
        return ""
    saved = 1 - result.replica_hours / result.fixed_replica_hours if result.fixed_replica_hours else 0.0
    unreached = result.metric == "utilisation" and result.target >= result.saturated
    words = f"; a replica's cores are never more than {100 * result.saturated:.0f} % busy: lower the target" * unreached
    target = f"{number(result.target)} {'of the cores' if result.metric == 'utilisation' else 'requests in flight'}"
    return (
        f"autoscaler (target {target}): {result.missed:,} of {result.requests:,} requests missed the limit "
        f"({number(100 * result.missed_share, 3)} %); {several(result.replica_hours, 'replica hour')}, {_than(saved)} "
        f"than with a fixed number; at most {several(result.highest, 'replica')}, "
        f"{several(result.changes, 'change')}{words}"
    )


def _than(saved: float) -> str:
    return f"{100 * abs(saved):.0f} % {'fewer' if saved >= 0 else 'more'}"


def price_words(result: PlanResult) -> str:
    """The price of the replicas, as text; empty if unknown."""
    price = result.price
    if price is None:
        return ""
    million = "" if price.per_million is None else f", {number(price.per_million)} per million requests"
    return f"price: {number(price.per_hour)} per hour, {number(price.per_month, 6)} per month{million}"


def assumption_words(result: PlanResult) -> list[str]:
    """The plan's assumptions, a line each."""
    own = result.assumptions
    hedge = ""
    if own.hedge_ms is not None:
        hedge = f", hedged after {number(own.hedge_ms, 6)} ms ({number(100 * own.hedged_share, 2)} %)"
    return [f"arrivals: {own.arrivals}; routing: {own.routing}{hedge}", *own.notes]


def page(result: PlanResult) -> PlanPage:
    """The page of a plan."""
    head, lead = headline(result)
    own = result.predicted
    facts = (
        ("p99", f"{milliseconds(own.p99_ms)} ms", "as planned"),
        ("goodput", f"{count(own.goodput)}/s", "answers within the limit"),
        ("busy", _share(own.utilisation), "of the cores, as planned"),
        (
            "a lone request",
            f"{milliseconds(max(model.lone_ms for model in result.models))} ms",
            "the limit's percentile",
        ),
    )
    return PlanPage(
        head,
        f"{capitalized(lead)}.",
        facts,
        tuple(situation_rows(result)),
        heads(result),
        _curve(result),
        *_scaling(result.autoscaling),
        scaling_words(result.autoscaling),
        (loss_words(result), *filter(None, [price_words(result)]), *assumption_words(result)),
    )


def _curve(result: PlanResult) -> Chart | None:
    if len(result.curve) < 2:
        return None
    points = tuple(
        Point(point.replicas, point.rate, several(point.replicas, "replica"), f"{count(point.rate)} requests/s")
        for point in result.curve
    )
    highest = max(*(point.rate for point in result.curve), result.stressed.rate)
    return Chart(
        "Highest rate within the limit by number of replicas",
        linear(0, result.curve[-1].replicas, "replicas", lambda value: f"{value:g}"),
        linear(0, 1.05 * highest, "requests per second", count),
        (Series("within the limit", "c1", points),),
        Tick(result.predicted.rate, "planned rate"),
    )


def _scaling(result: Autoscaled | None) -> tuple[Chart | None, Chart | None]:
    """Replicas, and requests with those that were missed, over time."""
    if result is None or len(result.course) < 2:
        return None, None
    end_h = result.course[-1].at_s / 3600
    hours = linear(0, end_h, "hours", lambda value: f"{value:g}")
    moments = [(moment.at_s / 3600, f"{moment.at_s / 3600:.2f} h", moment) for moment in _thinned(result.course)]
    replicas = tuple(
        Point(x, moment.replicas, key, several(round(moment.replicas, 1), "replica"), _SMALL)
        for x, key, moment in moments
    )
    arrived = tuple(Point(x, moment.rate, key, f"{count(moment.rate)}/s arrive", _SMALL) for x, key, moment in moments)
    missed = tuple(
        Point(x, moment.missed, key, f"{count(moment.missed)}/s missed", _SMALL) for x, key, moment in moments
    )
    most = max(moment.rate for moment in result.course)
    return (
        Chart(
            "Replicas over time",
            hours,
            linear(0, result.highest + 1, "replicas", lambda value: f"{value:g}"),
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
    """Means of successive moments, at most `_DRAWN`; latencies are left out."""
    step = -(-len(course) // _DRAWN)
    groups = [course[first : first + step] for first in range(0, len(course), step)]
    return [
        ScalingMoment(
            group[0].at_s,
            sum(moment.rate for moment in group) / len(group),
            sum(moment.replicas for moment in group) / len(group),
            None,
            sum(moment.missed for moment in group) / len(group),
        )
        for group in groups
    ]


def _row(name: str, replicas: int, predicted: PlannedFigures, *, wide: bool) -> tuple[str, ...]:
    latencies = (predicted.p50_ms, predicted.p99_ms, *((predicted.at_ms,) if wide else ()))
    figures = (
        *(_ms(latency, predicted) for latency in latencies),
        f"{count(predicted.goodput)}/s",
        _share(predicted.utilisation),
    )
    return (name, f"{replicas:,}", count(predicted.rate), *figures, "met" if predicted.within else "missed")


def _latency_words(predicted: PlannedFigures) -> tuple[str, str]:
    return _ms(predicted.p99_ms, predicted), _ms(predicted.at_ms, predicted)


def _ms(value: float | None, predicted: PlannedFigures) -> str:
    if value is not None:
        return milliseconds(value)
    return "unknown" if predicted.within and predicted.at_ms is None else "refused"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title or None)
    for column, name in enumerate(names):
        table.add_column(name, justify="right" if column else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
