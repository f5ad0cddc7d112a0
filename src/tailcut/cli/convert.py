"""`tailcut convert`: a model of another format as an ONNX file, with its answers compared before and after."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A PyTorch program (.pt2); scikit-learn, XGBoost or LightGBM (.pkl, .joblib, .json, .ubj, .txt); a "
            "Hugging Face folder.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The ONNX file.")],
    trust: Annotated[bool, typer.Option("--trust", help="Read a pickle, which runs the code that it holds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Convert a model to ONNX with the library made for it.

    Exit code 1: the ONNX model answers differently from the original, and no file is written.
    """
    import sys

    import msgspec

    from tailcut.cli.records import ConvertResult
    from tailcut.converters import convert as run

    outcome = run(source, target, trust=trust)
    apart = f"{outcome.distance:.2g} apart over {outcome.rows} rows (at most {outcome.limit:g})"
    if json:
        result = ConvertResult(
            source=str(outcome.source),
            target=str(outcome.target) if outcome.right else None,
            what=outcome.what,
            distance=outcome.distance,
            limit=outcome.limit,
            rows=outcome.rows,
        )
        print(msgspec.json.encode(result).decode())
    elif outcome.right:
        print(f"{outcome.target}: {outcome.what}; its answers and those of the ONNX model are {apart}")
    if not outcome.right:
        print(f"tailcut: not written: the answers of the original and of the ONNX model are {apart}", file=sys.stderr)
        raise typer.Exit(1)
