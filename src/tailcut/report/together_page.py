"""The output of a joint tune: both arms of each model for the terminal, and the values of its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.report.strips import ArmStrip, Strips, strips
from tailcut.report.tune_page import figures_of
from tailcut.report.tune_words import FOUND, NOT_KEPT, NOTHING_KEPT, UNCHANGED, arm_title, noise_words
from tailcut.report.words import capitalized, milliseconds, milliseconds_between, ratio
from tailcut.tuner.together.result_records import JointModel, JointResult, JointVerification

ARM_WORDS = {
    "baseline": "every model with the engine's defaults, one call per request",
    "tuned": "the settings of the profiles",
}
_WITHIN = {True: "within", False: "over", None: "inconclusive"}


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One model's part of the page."""

    record: JointModel
    gain: str
    limits: tuple[tuple[str, str, str], ...]  # of each arm: its title, and whether its p99 is within the limit
    strips: Strips | None


def model_parts(result: JointResult) -> list[ModelPart]:
    """Each model with its gain, its limit and its strips."""
    return [
        ModelPart(
            model,
            gain_words(model),
            tuple((arm, arm_title(arm, model), limit_words(model, arm)) for arm in ARM_WORDS),
            _strips(model),
        )
        for model in result.models
    ]


def headline(result: JointResult) -> tuple[str, str]:
    """The title and lead: how the tuned models perform together."""
    names = ", ".join(model.name for model in result.models)
    checked = [model.verification for model in result.models if model.verification is not None]
    if len(checked) < len(result.models):
        return "Not verified", "The tune was interrupted. The profiles hold the best settings found so far."
    if result.not_kept:
        return NOT_KEPT.capitalize(), f"{not_kept_words(result)}."
    if all(model.unchanged for model in result.models):
        return UNCHANGED.capitalize(), "Nothing was better than the engine's defaults: the profiles hold them."
    before = _limits_words([verification.baseline.within for verification in checked])
    sentence = f"{names} in one server, all under load at the same time; with the engine's defaults, {before}."
    return capitalized(_limits_words([verification.tuned.within for verification in checked])), sentence


def not_kept_words(result: JointResult) -> str:
    """A sentence that the combination found is proven worse than the defaults; empty if it is not."""
    item = result.not_kept
    return (
        ""
        if not item
        else f"The settings found are proven worse: {item.reason}; the profiles hold the engine's defaults"
    )


def gain_words(model: JointModel) -> str:
    """How a model's p99 changed, with its interval; only what that proves."""
    checked = model.verification
    if checked is None:
        return "not verified"
    interval, of, more = checked.p99_ratio, "p99", ""
    if interval is None and checked.tail_ratio is not None:
        interval, of = checked.tail_ratio, checked.tail_ratio.of
        more = "; too few samples for the p99: raise --budget"
    if interval is None and checked.no_ratio_because:
        return checked.no_ratio_because
    if interval is None:
        return "too few samples to measure p99: raise --budget"
    if interval.high < 1:
        spread = f"{1 / interval.high:.2f} to {1 / max(interval.low, 1e-9):.2f}, 99 % interval"
        return f"{of} is {1 / interval.point:.2f} times shorter than with the defaults ({spread}){more}"
    if interval.low > 1:
        return f"{of} got longer: {ratio(interval)} of that with the defaults{more}"
    return f"{of} is {ratio(interval)} of that with the defaults: inconclusive{more}"


def limit_words(model: JointModel, arm: str) -> str:
    """One arm's p99, and whether it is within the limit."""
    if model.verification is None or model.limit_ms is None:
        return "unknown"
    result = model.verification.arms[arm]
    return f"p99 {milliseconds(result.p99_ms)} ms, {_WITHIN[result.within]}"


def together_summary(result: JointResult) -> RenderableType:
    """Both arms of each model as a table, and a line for each model."""
    lines: list[RenderableType] = []
    if result.verified:
        lines.append("verified with all models in one server, under load at the same time; latency in ms")
        lines += [_table(model, model.verification) for model in result.models if model.verification]
    else:
        lines.append("[yellow]not verified: interrupted before the end; the best settings so far were kept[/]")
    if result.not_kept:
        lines.append(f"[yellow]{escape(not_kept_words(result))}[/]")
    for model in result.models:
        kept = f"{UNCHANGED}: {NOTHING_KEPT}" if model.unchanged else model.setting or "defaults"
        if model.not_kept:
            kept = f"{NOT_KEPT}: {model.not_kept}"
        lines.append(escape(f"{model.name}: {kept}"))
        lines.append(escape(f"  {gain_words(model)}"))
    lines += [escape(words) for words in (cpu_words(result), noise_words(result.noise)) if words]
    lines += [escape(f"profile: {model.profile}") for model in result.models if model.profile]
    if result.report:
        lines.append(escape(f"report: {result.report}"))
    return Group(*lines)


def cpu_words(result: JointResult) -> str:
    """The cores used by each arm's server, as text; empty if unknown."""
    shares = result.cpu_cores
    if not shares or not all(shares.values()):
        return ""
    return "CPU under this load: " + ", ".join(f"{arm} {share:.2f} cores" for arm, share in shares.items())


def _table(model: JointModel, checked: JointVerification) -> Table:
    limit = f"p99 limit {milliseconds(model.limit_ms)} ms"
    table = Table(title=escape(f"{model.name} at {model.rate:,.6g} requests/s, {limit}"))
    failed = any(result.errors for result in checked.arms.values())
    for name in ("", "p50", "p95", "p99", "99 % interval", "limit", "samples", *["failed"] * failed):
        table.add_column(name, justify="right" if name else "left")
    for arm, result in checked.arms.items():
        figures = [milliseconds(value) for value in (result.p50_ms, result.p95_ms, result.p99_ms)]
        spread = milliseconds_between(result.p99_interval_ms)
        counts = [f"{result.samples:,}", *[f"{result.errors:,}"] * failed]
        table.add_row(arm_title(arm, model), *figures, spread, _WITHIN[result.within], *counts)
    return table


def _limits_words(within: Sequence[bool | None]) -> str:
    if all(within):
        return "every p99 is within its limit"
    over, unclear = sum(met is False for met in within), sum(met is None for met in within)
    parts = [f"{over} of {len(within)} over"] * bool(over) + [f"{unclear} of {len(within)} inconclusive"] * bool(
        unclear
    )
    return f"p99 against its limit: {', '.join(parts)}"


def _strips(model: JointModel) -> Strips | None:
    checked = model.verification
    if checked is None:
        return None
    words = ARM_WORDS | ({"tuned": FOUND if model.not_kept else NOTHING_KEPT} if model.unchanged else {})
    arms = [
        ArmStrip(arm_title(name, model), name, words[name], arm.curve, figures_of(arm))
        for name, arm in checked.arms.items()
    ]
    return strips(arms, model.limit_ms)
