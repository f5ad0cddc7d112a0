"""The result of a tune as text: the headline, and a sentence for each thing that the reader has to know."""

from msgspec import UNSET

from tailcut.lab.records import IntervalRecord
from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.words import count, milliseconds, milliseconds_between, ratio
from tailcut.tuner.objective import ALL_LATE
from tailcut.tuner.result_records import NoiseResult, OfferResult, TuneResult
from tailcut.tuner.together.result_records import JointModel

ARM_WORDS = {
    "baseline": "the engine's defaults, one call per request, JSON over HTTP",
    "reference": "the same defaults with binary tensors",
    "tuned": "the settings of the profile",
    "previous": "the settings of the profile before this tune",
}
_SERVERS = {"tuned": "tuned", "baseline": "baseline", "reference": "baseline", "previous": "previous profile's"}
UNCHANGED = "unchanged"
NOT_KEPT = "not kept"
FOUND = "the settings that were found, but are not kept"
NOTHING_KEPT = "nothing was kept: the same settings as before"


def headline(result: TuneResult) -> tuple[str, str]:
    """The title and lead: what was gained; only what is proven by its interval."""
    checked = result.verification
    if checked is None:
        return "Not verified", "The tune was interrupted. The profile holds the best settings found so far."
    if result.not_kept or result.unchanged:
        word, sentence = (
            (NOT_KEPT, f"{not_kept_words(result)}.") if result.not_kept else (UNCHANGED, unchanged_words(result))
        )
        return word.capitalize(), sentence
    tail, samples = checked.tail_ratio, checked.tuned.samples
    if tail is None:
        few = f"{samples:,} samples are too few: the p99 needs 459 in each arm. Raise the budget or the rate."
        because = checked.no_ratio_because
        p99 = "" if checked.tuned.p99_ms is None else f" The tuned p99 is {milliseconds(checked.tuned.p99_ms)} ms."
        title = "No ratio" if p99 else "Tail unknown"
        return title, f"{because[0].upper()}{because[1:]}.{p99}" if because else few
    of = tail.of
    size = f"{samples:,} requests in each arm"
    bounds = f"99 % interval x{tail.low:.2f} to x{tail.high:.2f}, {size}"
    if tail.high < 1:
        gain = f"99 % interval {_times(tail.high)} to {_times(tail.low)}, {size}"
        rate = f"{result.objective.rate:,.6g} per second"
        return (
            f"{of} {_times(tail.point)} shorter",
            f"than the baseline at the same offered rate of {rate} ({gain}).",
        )
    if tail.low > 1:
        return (
            f"{of} got longer",
            f"x{tail.point:.2f} of the baseline's ({bounds}): the price of a better {result.objective.kind}.",
        )
    return "No proven gain", f"{of} is x{tail.point:.2f} of the baseline's ({bounds}): inconclusive."


def unchanged_words(result: TuneResult) -> str:
    """A sentence that nothing was gained."""
    before = "the profile's settings" if result.retune else "the baseline's settings"
    return f"Nothing was better than {before}: the profile holds them."


def not_kept_words(result: TuneResult) -> str:
    """A sentence that the settings found are proven worse than those of the profile; empty if they are not."""
    item = result.not_kept
    if not item:
        return ""
    holds = "the profile holds its previous settings" if item.kept == "previous" else "the profile holds the baseline's"
    return f"The settings found are proven worse: {item.reason}; {holds}"


def arm_title(name: str, result: TuneResult | JointModel) -> str:
    """The name of an arm of the verification; for the tuned one, it depends on whether its settings are kept."""
    if name == "tuned" and result.not_kept:
        return NOT_KEPT
    return UNCHANGED if name == "tuned" and result.unchanged else name


def arm_words(name: str, result: TuneResult) -> str:
    """A description of the settings of an arm."""
    if name == "tuned" and result.not_kept:
        return FOUND
    if name == "tuned" and result.unchanged:
        return NOTHING_KEPT
    if name == "baseline" and result.settings.pipeline:
        return "the pipeline as written, with the settings of @stage"
    if name == "baseline" and result.verification and result.verification.baseline_wire == "binary":
        return "the engine's defaults, one call per request, binary tensors over HTTP"
    return ARM_WORDS[name]


def tie_words(result: TuneResult) -> str:
    """A sentence on which of several equal configurations was chosen, and why; empty without a tie."""
    tie = result.tie_break
    if not tie:
        return ""
    return f"chosen among {len(tie.equals)} that are equal: {tie.chosen or 'the baseline'}: {tie.reason}"


def unmet_words(result: TuneResult) -> str:
    """A sentence that no configuration is known to meet the limit; empty if one is."""
    limit_ms = result.objective.limit_ms
    if result.objective.kind != "goodput" or limit_ms is None:
        return ""
    raced = [estimate.raced for estimate in result.estimated if estimate.raced is not None]
    if raced and max(raced) < ALL_LATE:
        return (
            f"no configuration answered within the limit of {limit_ms:.3g} ms in the race: "
            "the one with the shortest p99 was chosen"
        )
    if result.estimated and not any(estimate.rate for estimate in result.estimated):
        return f"no configuration is expected to meet the limit of {limit_ms:.3g} ms"
    return ""


def offer_words(result: TuneResult) -> list[str]:
    """What a looser `--accuracy` is expected to gain, a line for each offer."""
    return [_offer_words(offer) for offer in result.offers]


def _offer_words(offer: OfferResult) -> str:
    measures = ((offer.worst, "cosine {:.4g}"), (offer.value, "metric {:.4g}"), (offer.top1, "top-1 {:.4g}"))
    known = [words.format(value) for value, words in measures if value is not None]
    if not known and offer.differing is not None:
        known = [f"{offer.differing:.2%} of the labels differ"]
    speed = f"p50 x{offer.p50_ratio:.2f}, rate x{offer.rate_ratio:.2f}"
    name = f"{offer.precision} ({offer.engine})"
    return f"{name}: {', '.join([speed, *known[:2]])}; accept with --accuracy {offer.accuracy:g}"


def more_traffic(result: TuneResult) -> str:
    """The second headline, more traffic with the same tail; empty if it was not proven."""
    checked = result.verification
    highest = None if checked is None or result.not_kept else checked.highest_rate
    if not highest or not highest.within or highest.baseline is None or highest.tuned <= highest.baseline:
        return ""
    times = highest.tuned / highest.baseline
    if highest.p99_ratio is not None:
        return (
            f"{times:.2f} times the traffic within the same tail: at {count(highest.tuned)} requests/s its p99 is "
            f"{ratio(highest.p99_ratio)} of the baseline's at {count(result.objective.rate)} ({highest.samples:,} "
            f"requests); at {count(highest.baseline)} the baseline's is over {milliseconds(highest.limit_ms)} ms"
        )
    return (
        f"{times:.2f} times the traffic within the same tail: {count(highest.tuned)} requests/s with a p99 of "
        f"{milliseconds_between(highest.p99_interval_ms)} ms ({highest.samples:,} requests); the limit is "
        f"{milliseconds(highest.limit_ms)} ms, and the baseline is over it at {count(highest.baseline)}"
    )


def cost_words(result: TuneResult) -> str:
    """The CPU time per request, if that was the objective; else empty."""
    checked = result.verification
    if checked is None or result.not_kept or result.objective.kind != "cost" or not checked.cpu_ratio:
        return ""
    return f"CPU time per request {ratio(checked.cpu_ratio)} of the baseline's"


def limits_words(result: TuneResult) -> str:
    """Whether the server of the kept settings stayed within `--memory` and `--cpus`; empty without a limit."""
    checked, words = result.verification, []
    kept = result.not_kept.kept if result.not_kept else "tuned"
    server = f"the {_SERVERS[kept]} server"
    if checked is not None and checked.memory_within is not UNSET:
        peak, limit = checked.arms[kept].memory_peak_bytes or 0, result.objective.memory_bytes or 0
        word = "within" if checked.memory_within else "OVER"
        words.append(f"{server}'s memory peaked at {peak / 1e6:,.0f} MB: {word} the limit of {limit / 1e6:,.0f} MB")
    if checked is not None and checked.cpus_within is not UNSET:
        word = "within" if checked.cpus_within else "OVER"
        words.append(
            f"{server} kept {checked.cpus_used:.2g} CPUs busy at its highest load: {word} the limit of "
            f"{result.objective.cpus}"
        )
    return "; ".join(words)


def noise_words(noise: NoiseResult | None) -> str:
    """How noisy the machine was, as text; empty if it was not measured."""
    if not noise:
        return ""
    words = f"machine: quiet for {noise.quiet_share:.1%} of the time, worst gap {noise.worst_gap_ms:.3g} ms"
    if noise.repeated_blocks:
        words += f"; {noise.repeated_blocks} blocks repeated because the client was late"
    if noise.late_blocks:
        words += f"; the client was late in {noise.late_blocks} of the blocks that count"
    return words


def retune_words(result: TuneResult) -> str:
    """What changed compared with the re-checked profile, as text; empty without one."""
    retune = result.retune
    if not retune:
        return ""
    if retune.wrong:
        return f"the previous profile gives wrong answers: {retune.wrong}"
    if retune.unserved:
        return f"the previous profile was not measured: {retune.unserved}"
    if not retune.changed:
        return "unchanged: the profile's settings are still the best"
    changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in retune.changed.items())
    checked = result.verification
    of_kept = None if checked is None or result.not_kept else checked.previous_p99_ratio
    tail = ratio(of_kept) if of_kept else ""
    return f"changed from the previous profile: {changed}" + (
        f"; p99 {tail} compared with the previous profile" if tail else ""
    )


def tune_facts(result: TuneResult) -> list[tuple[str, str, str]]:
    """The verified ratios and the deadline, each as name, value and note; no ratios if the settings are not kept."""
    checked = result.verification
    if checked is None:
        return []
    facts = []
    if checked.reference and not result.not_kept:
        facts.append(("p99 to the reference", *_ratio_words(checked.reference_p99_ratio)))
    if not result.not_kept:
        facts.append(("throughput to the baseline", *_ratio_words(checked.throughput_ratio)))
    if result.objective.slo_ms:
        is_met = None if checked.slo_met is UNSET else checked.slo_met
        met = {True: "met", False: "missed", None: "inconclusive"}[is_met]
        facts.append((f"deadline of {result.objective.slo_ms:g} ms", met, "judged by the p99's interval"))
    accuracy = result.accuracy
    if accuracy:
        figures = accuracy_figures(accuracy)
        words, figure = figures[0] if figures else (random_words(accuracy), "not compared")
        facts.append(("answers", figure, words))
    return facts


def rows_words(result: TuneResult) -> str:
    """A sentence on whether requests are batched, and why."""
    rows = result.rows
    how = "Requests are batched" if rows.batched else "Each request runs whole, never merged or split"
    return f"{how} (rows {rows.rows}): {rows.reason}."


def copy_words(result: TuneResult) -> str:
    """A sentence on the quantised copy that the settings use; empty if they use the model itself."""
    copy = result.quantized
    if not copy:
        return ""
    names = ", ".join(copy.in_float)
    kept = f"{len(copy.in_float)} of {copy.operators} operators in float ({names})" if names else "all operators"
    ranges = f"ranges by {copy.method} over {copy.requests} requests of the data"
    return f"The profile uses a copy in static int8: {kept}, {ranges}."


def _ratio_words(interval: IntervalRecord | None) -> tuple[str, str]:
    if interval is None:
        return "unknown", "too few samples"
    return f"x{interval.point:.2f}", f"{interval.low:.2f} to {interval.high:.2f}"


def _times(value: float) -> str:
    if value <= 0:
        return "unboundedly"
    times = 1 / value
    return f"{times:.2f} times" if times < 10 else f"{times:.3g} times"
