"""Results as self-contained HTML files that open offline, in light and dark mode, with keyboard and screen reader.

`templates/base.html.j2` is the frame, and `parts.html.j2` has the macros of which pages are made; `charts` and `strips`
compute positions, and each page has a module for its content. The templates escape everything in a result, because
names of models are untrusted.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from tailcut.lab.records import BenchResult, ExplainResult, MicrobenchResult
from tailcut.planning.records import PlanResult
from tailcut.report import (
    bench_page,
    bench_words,
    explain_page,
    microbench_page,
    plan_page,
    together_page,
    tune_page,
    tune_words,
    words,
)
from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.explain import HEADS
from tailcut.report.tune_words import headline
from tailcut.tuner.result_records import TuneResult
from tailcut.tuner.together.result_records import JointResult

__all__ = [
    "headline",
    "render",
    "render_bench_html",
    "render_explain_html",
    "render_microbench_html",
    "render_plan_html",
    "render_together_html",
    "render_tune_html",
]


_MOST_LATENCIES = 120_000  # in the raw data of a page: about 1 MB


def render(template: str, raw: Mapping[str, Any], **values: Any) -> str:
    """Render a page from a template that extends `base.html.j2`.

    Args:
        template: the name of a file in `templates/`.
        raw: the data that the page offers for download.
        values: the variables of the template.

    Raises:
        ValueError: `raw` has NaN or infinity.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("tailcut.report"), PackageLoader("tailcut.live", "page")]),
        autoescape=select_autoescape(["html.j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ms": words.milliseconds,
        "ns": words.nanoseconds,
        "count": words.count,
        "capitalized": words.capitalized,
        "ratio": words.ratio,
        "bounds": words.bounds,
        "costs": words.costs,
        "client_cores": words.client_cores,
        "between": words.milliseconds_between,
        "own": words.own_figures,
        "percentile": bench_words.percentile_words,
        "interval": bench_words.interval_words,
        "longest": bench_words.longest_words,
    }
    environment.globals["cost_titles"] = words.COST_TITLES
    text = json.dumps(raw, allow_nan=False).replace("<", "\\u003c")
    return environment.get_template(template).render(raw=text, **values)


def render_tune_html(result: TuneResult) -> str:
    """The report of one tune.

    Args:
        result: what `tailcut tune --json` prints.
    """
    strips, chart = tune_page.before_after(result)
    return render(
        "tune.html.j2",
        msgspec.to_builtins(result),
        result=result,
        headline=headline(result),
        facts=tune_words.tune_facts(result),
        rows=tune_words.rows_words(result),
        arms=result.verification.arms if result.verification else {},
        settings=msgspec.to_builtins(result.settings),
        pareto=tune_page.pareto_chart(result),
        noise=tune_words.noise_words(result.noise),
        titles={name: tune_words.arm_title(name, result) for name in tune_words.ARM_WORDS},
        notes=[
            words
            for words in (
                tune_words.retune_words(result),
                tune_words.unmet_words(result),
                tune_words.tie_words(result),
                tune_words.cost_words(result),
                tune_words.limits_words(result),
            )
            if words
        ],
        offers=tune_words.offer_words(result),
        copy=tune_words.copy_words(result),
        strips=strips,
        chart=chart,
        more_traffic=tune_words.more_traffic(result),
        waterfall=tune_page.waterfall(result),
        answers=accuracy_figures(result.accuracy) if result.accuracy else [],
        not_compared=random_words(result.accuracy) if result.accuracy else "",
    )


def render_together_html(result: JointResult) -> str:
    """The report of a joint tune.

    Args:
        result: what `tailcut tune A.onnx B.onnx --json` prints.
    """
    notes = (together_page.cpu_words(result), tune_words.noise_words(result.noise))
    return render(
        "together.html.j2",
        msgspec.to_builtins(result),
        result=result,
        headline=together_page.headline(result),
        parts_of_models=together_page.model_parts(result),
        notes=[text for text in notes if text],
    )


def render_bench_html(record: BenchResult) -> str:
    """The report of one load test.

    Args:
        record: what `tailcut bench --json` prints.
    """
    return render("bench.html.j2", _light(record), record=record, page=bench_page.page(record))


def _light(record: BenchResult) -> dict[str, Any]:
    """The record as plain data, with only every k-th latency if all would be too many; `thinned` is then k."""
    raw: dict[str, Any] = msgspec.to_builtins(record)
    step = -(-sum(len(run.latencies_us) for run in record.runs) // _MOST_LATENCIES)
    if step > 1:
        for run in raw["runs"]:
            run |= {"latencies_us": run["latencies_us"][::step], "thinned": step}
    return raw


def render_microbench_html(record: MicrobenchResult) -> str:
    """The report of one micro-benchmark.

    Args:
        record: what `tailcut microbench --json` prints.
    """
    raw = msgspec.to_builtins(record)
    return render("microbench.html.j2", raw, record=record, page=microbench_page.page(record))


def render_explain_html(result: ExplainResult) -> str:
    """The page of an explained tail.

    Args:
        result: what `tailcut explain --json` prints.
    """
    return render(
        "explain.html.j2",
        msgspec.to_builtins(result),
        result=result,
        page=explain_page.page(result),
        heads=HEADS,
        command=f"tailcut explain {result.target}",
    )


def render_plan_html(result: PlanResult) -> str:
    """The page of a capacity plan.

    Args:
        result: what `tailcut plan --json` prints.
    """
    return render("plan.html.j2", msgspec.to_builtins(result), result=result, page=plan_page.page(result))
