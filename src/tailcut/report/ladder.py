"""The catalogue of settings for a terminal: a table for each rung."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.tuner.catalogue import CatalogueSetting


def ladder_view(catalogue: Sequence[CatalogueSetting]) -> RenderableType:
    """A table of settings for each rung, in order."""
    blocks: list[RenderableType] = []
    for number, (rung, settings) in enumerate(groupby(catalogue, key=lambda setting: setting.rung), 1):
        table = Table(title=f"{number}. {rung}", title_justify="left", show_lines=True, expand=True)
        for heading, share in (("setting", 3), ("values", 3), ("needs", 3), ("helps", 3), ("hurts", 3)):
            table.add_column(heading, ratio=share)
        for setting in settings:
            name = f"[bold]{escape(setting.name)}[/]\n[dim]{escape(' '.join(setting.fields))}[/]"
            table.add_row(
                name, *(escape(words) for words in (setting.values, setting.needs, setting.helps, setting.hurts))
            )
        blocks.append(table)
    return Group(*blocks)
