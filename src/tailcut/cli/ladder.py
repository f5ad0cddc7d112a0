"""`tailcut ladder`: every setting that `tailcut tune` may change, by rung."""

from typing import Annotated

import typer

from tailcut.cli.streams import print_json


def ladder(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the settings that `tailcut tune` searches: values, requirements, when each helps and when it hurts."""
    import msgspec

    from tailcut.cli.records import LadderResult, LadderRung
    from tailcut.report.ladder import ladder_view
    from tailcut.report.terminal import output_console
    from tailcut.tuner.catalogue import CATALOGUE
    from tailcut.tuner.space import RUNG_FIELDS

    if json:
        rungs = [
            LadderRung(name=rung, settings=[setting for setting in CATALOGUE if setting.rung == rung])
            for rung in RUNG_FIELDS
        ]
        print_json(msgspec.json.encode(LadderResult(rungs=rungs)))
    else:
        output_console().print(ladder_view(CATALOGUE))
