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
    trust: Annotated[
        bool, typer.Option("--trust", help="Read a pickle or a program that runs code of its own.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Convert a model to ONNX with the library made for it.

    Exit code 1: the ONNX model answers differently from the original, and no file is written.
    """
    import sys

    import msgspec

    from tailcut.cli.records import ConvertResult
    from tailcut.converters import convert as run

    conversion = run(source, target, trust=trust)
    apart = f"{conversion.distance:.2g} apart over {conversion.rows} rows (at most {conversion.limit:g})"
    if json:
        result = ConvertResult(
            source=str(conversion.source),
            target=str(conversion.target) if conversion.right else None,
            what=conversion.what,
            distance=conversion.distance,
            limit=conversion.limit,
            rows=conversion.rows,
        )
        print(msgspec.json.encode(result).decode())
    elif conversion.right:
        print(f"{conversion.target}: {conversion.what}; its answers and those of the ONNX model are {apart}")
    if not conversion.right:
        print(f"tailcut: not written: the answers of the original and of the ONNX model are {apart}", file=sys.stderr)
        raise typer.Exit(1)
