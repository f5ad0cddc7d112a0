"""Why a tail is slow, for people: a terminal's tables, Markdown, and the page with the worst requests' timeline."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.report.html import render
from tailcut.report.words import count

STAGE_WORDS = {  # in a request's order, with the tone of its bar
    "receive": ("the client sends", "c5"),
    "queue": ("waits in the queue", "c2"),
    "dispatch": ("a worker wakes", "c6"),
    "compute": ("the engine computes", "c1"),
    "deliver": ("the loop gets to the answer", "c3"),
    "encode": ("the answer is encoded", "c4"),
    "write": ("the answer is written", "c4"),
}
_HEADS = ("stage", "median us", "slowest 1 % us", "of the time above the median")


def explain_view(found: Mapping[str, Any]) -> RenderableType:
    """The verdict, the stages and what coincided."""
    lines: list[RenderableType] = [f"[bold]{escape(found['verdict'])}[/]"]
    if "stages" in found:
        table = Table(title=f"{found['requests']:,} requests in {found['duration_s']:g} s")
        for head in _HEADS:
            table.add_column(head, justify="left" if head == "stage" else "right")
        for row in stage_rows(found):
            table.add_row(*row)
        lines.append(table)
        lines += [escape(line) for line in coincided_lines(found)]
    if found["missed"]:
        lines.append(f"[yellow]{found['missed']:,} more passed too fast to be read[/]")
    return Group(*lines)


def explain_markdown(found: Mapping[str, Any]) -> str:
    """The same for a pull request."""
    parts = [f"### {found['model']}: {found['verdict']}"]
    if "stages" in found:
        rows = [" | ".join(row) for row in (_HEADS, ("---", "---:", "---:", "---:"), *stage_rows(found))]
        parts += ["\n".join(f"| {row} |" for row in rows), "\n".join(f"- {line}" for line in coincided_lines(found))]
    return "\n\n".join(part for part in parts if part) + "\n"


def explain_html(found: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: what `tailcut explain --json` prints.
    """
    worst = found.get("worst", [])
    longest = max((entry["marks_us"]["written"] for entry in worst), default=1.0)
    return render(
        "explain.html.j2",
        found,
        found=found,
        rows=stage_rows(found) if "stages" in found else [],
        heads=_HEADS,
        coincided=coincided_lines(found),
        stages=[(name, words, tone) for name, (words, tone) in STAGE_WORDS.items()],
        timeline=[(entry, _bars(entry, longest)) for entry in worst],
        longest_us=longest,
    )


def stage_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """A row for each stage: its name, the median requests' time, the slowest ones', and its share."""
    return [
        (name, count(stage["median_us"]), count(stage["slowest_us"]), f"{stage['share']:.0%}")
        for name, stage in found["stages"].items()
    ]


def coincided_lines(found: Mapping[str, Any]) -> list[str]:
    """What else happened to the process, in words."""
    return [
        f"{name}: {entry['events']} times, up to {entry['longest_us'] / 1e3:,.3g} ms; it overlapped "
        f"{entry['slowest_hit']:.0%} of the slowest requests and {entry['median_hit']:.0%} of those around the median"
        for name, entry in found.get("coincided", {}).items()
    ]


def _bars(entry: Mapping[str, Any], longest_us: float) -> list[tuple[str, float, float, str]]:
    """Tone, left and width in per cent, and words of each stage of one request."""
    moments = list(entry["marks_us"].values())
    bars = []
    for (name, (_, tone)), begin, end in zip(STAGE_WORDS.items(), moments, moments[1:], strict=False):
        width = 100 * (end - begin) / longest_us
        if width >= 0.05:
            bars.append((tone, round(100 * begin / longest_us, 2), round(width, 2), f"{name} {end - begin:,.0f} us"))
    return bars
