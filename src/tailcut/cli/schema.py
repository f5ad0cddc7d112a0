"""`tailcut schema`: the JSON schema of what a command prints with --json."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tailcut.cli.streams import print_json


def schema(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="A command that has --json, such as tune or ray config.", show_default=False
        ),
    ],
) -> None:
    """Print the JSON schema (draft 2020-12) of a command's --json output."""
    import orjson

    from tailcut.errors import UsageError

    name = " ".join(command)
    if name not in SCHEMAS:
        raise UsageError(f"no schema for {name!r}: the commands with --json output are {', '.join(SCHEMAS)}")
    print_json(orjson.dumps(SCHEMAS[name](), option=orjson.OPT_INDENT_2))


def _tune() -> dict[str, Any]:
    from tailcut.lab.records import schema_of
    from tailcut.tuner.result_records import ComparisonResult, TuneResult
    from tailcut.tuner.together.result_records import JointResult

    return schema_of(TuneResult, JointResult, ComparisonResult)


def _of(module: str, name: str) -> Callable[[], dict[str, Any]]:
    """The schema of a struct, imported when it is asked for."""

    def build() -> dict[str, Any]:
        from importlib import import_module

        from tailcut.lab.records import schema_of

        return schema_of(getattr(import_module(module), name))

    return build


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "doctor": _of("tailcut.cli.records", "DoctorResult"),
    "tune": _tune,
    "ladder": _of("tailcut.cli.records", "LadderResult"),
    "serve": _of("tailcut.cli.records", "ServeReady"),
    "convert": _of("tailcut.cli.records", "ConvertResult"),
    "bench": _of("tailcut.lab.records", "BenchResult"),
    "explain": _of("tailcut.lab.records", "ExplainResult"),
    "top": _of("tailcut.live.records", "View"),
    "plan": _of("tailcut.planning.records", "PlanResult"),
    "microbench": _of("tailcut.lab.records", "MicrobenchResult"),
    "vectorization": _of("tailcut.report.vectorization", "VectorizationResult"),
    "stat": _of("tailcut.cli.records", "StatResult"),
    "demo": _of("tailcut.cli.records", "DemoResult"),
    "ray config": _of("tailcut.cli.records", "RayConfigResult"),
    "ray replicas": _of("tailcut.cli.records", "RayReplicasResult"),
    "ray haproxy": _of("tailcut.cli.records", "RayHaproxyResult"),
}
