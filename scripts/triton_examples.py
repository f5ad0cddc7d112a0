"""Run tritonclient's own Python examples, unchanged, against Triton's example repository and an ensemble of it.

    python scripts/triton_examples.py EXAMPLES [--json]

EXAMPLES is `src/python/examples` of https://github.com/triton-inference-server/client. The repository is made anew:
`simple`, `simple_int8` and `simple_string` add and subtract, `simple_identity` gives back its text. All examples run
twice: the second time `simple` is an ensemble of two models, so that each example compares sums and differences that
the ensemble computed. An example passes where it exits with 0, as it does where the answers that it checks are right.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.triton.repositories import add_model, example_repository

KINDS = ("infer", "aio_infer", "async_infer", "string_infer", "shm", "shm_string")
EXAMPLES = [f"simple_{protocol}_{kind}_client.py" for protocol in ("http", "grpc") for kind in KINDS]
EXAMPLES += [f"simple_grpc_{kind}_client.py" for kind in ("keepalive", "custom_args")]
EXAMPLES += [f"grpc_explicit_{kind}_content_client.py" for kind in ("int", "int8", "byte")]
EXAMPLES += ["reuse_infer_objects_client.py"]
LIMIT_S = 60
ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_INT32 dims: 16 }, { name: "INPUT1" data_type: TYPE_INT32 dims: 16 } ]
output [ { name: "OUTPUT0" data_type: TYPE_INT32 dims: 16 }, { name: "OUTPUT1" data_type: TYPE_INT32 dims: 16 } ]
ensemble_scheduling { step [
  { model_name: "add_sub" input_map { key: "INPUT0" value: "INPUT0" } input_map { key: "INPUT1" value: "INPUT1" }
    output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "OUTPUT1" } },
  { model_name: "same" input_map { key: "IN" value: "sum" } output_map { key: "OUT" value: "OUTPUT0" } }
] }
"""


def identity(repository: Path, name: str, kind: int, ends: tuple[str, str]) -> None:
    """A model that gives back its input."""
    infos = [[helper.make_tensor_value_info(end, kind, ["batch", 16])] for end in ends]
    graph = helper.make_graph([helper.make_node("Identity", [ends[0]], [ends[1]])], name, *infos)
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def repository(folder: Path, *, ensemble: bool) -> Path:
    """Triton's example models; with `ensemble`, `simple` is computed by two of them."""
    example_repository(folder)
    identity(folder, "simple_identity", TensorProto.STRING, ("INPUT0", "OUTPUT0"))
    if ensemble:
        add_model(folder, "add_sub")
        identity(folder, "same", TensorProto.INT32, ("IN", "OUT"))
        (folder / "simple" / "1" / "model.onnx").unlink()
        (folder / "simple" / "config.pbtxt").write_text(ENSEMBLE)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[dict[str, object]]:
    """The address of a server of the repository."""
    flags = ["--port", "0", "--grpc-port", "0", "--shared-memory", "/", "--no-auto", "--json"]
    command = [sys.executable, "-m", "tailcut", "serve", "--model-repository", str(folder), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def run(example: Path, address: dict[str, object]) -> str:
    """Nothing where it passes; else its last line."""
    port = address["grpc_port" if "grpc" in example.name else "port"]
    try:
        done = subprocess.run(
            [sys.executable, str(example), "-u", f"{address['host']}:{port}"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {LIMIT_S} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    missing = [name for name in EXAMPLES if not (asked.examples / name).is_file()]
    result: dict[str, dict[str, str]] = {}
    for kind in ("model", "ensemble"):
        with tempfile.TemporaryDirectory() as name, served(repository(Path(name), ensemble=kind == "ensemble")) as at:
            result[kind] = {item: run(asked.examples / item, at) for item in EXAMPLES if item not in missing}
    failed = [item for results in result.values() for item, reason in results.items() if reason]
    if asked.json:
        print(json.dumps({"missing": missing, **result}))
        return bool(failed)
    for kind, results in result.items():
        print(f"`simple` is {'a' if kind == 'model' else 'an'} {kind}: {len(results)} examples")
        for item, reason in results.items():
            print(f"  {'pass' if not reason else 'FAIL'}  {item}{': ' if reason else ''}{reason}")
    for item in missing:
        print(f"not there: {item}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
