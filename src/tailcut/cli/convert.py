"""`tailcut convert`: convert a model of another format to ONNX, and compare the answers of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tailcut.cli.streams import print_json

_MOST_ROWS = 1000  # of the data, spread evenly over the file


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
    data: Annotated[
        Path | None,
        typer.Option(
            help="Sample inputs to compare the answers on: an .npz file with one array per input, an .npy file for a "
            "single input, or a .jsonl file.",
            show_default=False,
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load a pickle or a program, which may execute arbitrary code.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Convert a model to ONNX with the library made for it.

    Exit code 1: the ONNX model answers differently from the original, and no file is written.
    """
    import sys

    import msgspec

    from tailcut.cli.options import load_data
    from tailcut.cli.records import ConvertResult
    from tailcut.converters import convert as run
    from tailcut.engines.base import Arrays
    from tailcut.lab.describe import rows_of_data
    from tailcut.spec import ModelSpec

    arrays = load_data(data) if data else {}

    def requests(spec: ModelSpec) -> Sequence[Arrays]:
        return rows_of_data(spec, arrays, _MOST_ROWS)

    conversion = run(source, target, trust=trust, requests=requests if data else None)
    result = conversion.comparison
    rows = f"{result.rows} rows {', '.join(result.kinds)}"
    apart = f"{result.distance:.2g} apart (at most {result.limit:g}) over {rows}"
    if json:
        record = ConvertResult(
            source=str(conversion.source),
            target=str(conversion.target) if conversion.right else None,
            what=conversion.what,
            distance=result.distance,
            limit=result.limit,
            rows=result.rows,
            compared=list(result.kinds),
        )
        print_json(msgspec.json.encode(record))
    elif conversion.right:
        print(f"{conversion.target}: {conversion.what}; its answers and those of the ONNX model are {apart}")
    if not conversion.right:
        advice = "" if data else "; --data FILE compares your own rows instead"
        print(
            f"tailcut: not written: the answers of the original and of the ONNX model are {apart}{advice}",
            file=sys.stderr,
        )
        raise typer.Exit(1)
