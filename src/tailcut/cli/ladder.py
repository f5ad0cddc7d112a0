"""`tailcut ladder`: every setting that a tune may turn, by rung."""

from typing import Annotated

import typer


def ladder(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show the settings that `tailcut tune` searches: values, needs, when each helps and hurts."""
    from dataclasses import asdict

    import orjson
    from rich.console import Console

    from tailcut.report.ladder import ladder_view
    from tailcut.tuner.catalogue import CATALOGUE
    from tailcut.tuner.space import RUNG_FIELDS

    if json:
        rungs = [
            {"name": rung, "settings": [asdict(one) for one in CATALOGUE if one.rung == rung]} for rung in RUNG_FIELDS
        ]
        print(orjson.dumps({"rungs": rungs}).decode())
    else:
        Console().print(ladder_view(CATALOGUE))
