"""Model repositories for tests: the small models of Triton's own examples, recreated."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

CONFIG = """
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {{ name: "INPUT0" data_type: {kind} dims: [ 16 ] }},
  {{ name: "INPUT1" data_type: {kind} dims: [ 16 ] }}
]
output [
  {{ name: "OUTPUT0" data_type: {kind} dims: [ 16 ] }},
  {{ name: "OUTPUT1" data_type: {kind} dims: [ 16 ] }}
]
{more}
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [ {{ name: "A" data_type: TYPE_INT32 dims: 16 }}, {{ name: "B" data_type: TYPE_INT32 dims: 16 }} ]
output [ {{ name: "TWICE" data_type: TYPE_INT32 dims: 16 }} ]
ensemble_scheduling {{ step [
  {{ model_name: "{first}" model_version: -1
    input_map {{ key: "INPUT0" value: "A" }} input_map {{ key: "INPUT1" value: "B" }}
    output_map {{ key: "OUTPUT0" value: "sum" }} output_map {{ key: "OUTPUT1" value: "difference" }} }},
  {{ model_name: "{second}" model_version: -1
    input_map {{ key: "INPUT0" value: "sum" }} input_map {{ key: "INPUT1" value: "difference" }}
    output_map {{ key: "OUTPUT0" value: "TWICE" }} }}
] }}
"""
KINDS = {
    "simple": (TensorProto.INT32, "TYPE_INT32"),
    "simple_int8": (TensorProto.INT8, "TYPE_INT8"),
    "simple_string": (TensorProto.STRING, "TYPE_STRING"),
}


def add_and_subtract(kind: int, path: Path) -> Path:
    """INPUT0, INPUT1 [batch, 16] -> OUTPUT0 = their sum, OUTPUT1 = their difference; of text, of the numbers in it."""
    nodes, names = [], ["INPUT0", "INPUT1"]
    if kind != TensorProto.INT32:
        nodes = [helper.make_node("Cast", [name], [f"{name}_number"], to=TensorProto.INT32) for name in names]
        names = [f"{name}_number" for name in names]
    for index, operator in enumerate(("Add", "Sub")):
        end = f"OUTPUT{index}"
        if kind == TensorProto.INT32:
            nodes.append(helper.make_node(operator, names, [end]))
        else:
            nodes.append(helper.make_node(operator, names, [f"{end}_number"]))
            nodes.append(helper.make_node("Cast", [f"{end}_number"], [end], to=kind))
    ends = [
        [helper.make_tensor_value_info(f"{side}{place}", kind, ["batch", 16]) for place in (0, 1)]
        for side in ("INPUT", "OUTPUT")
    ]
    graph = helper.make_graph(nodes, "add_and_subtract", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def add_model(
    repository: Path, name: str, *, kind: str = "simple", more: str = "", versions: tuple[int, ...] = (1,)
) -> Path:
    """A model of an example's kind in a repository; `more` is text for the end of its configuration."""
    element, word = KINDS[kind]
    for version in versions:
        (repository / name / str(version)).mkdir(parents=True)
        add_and_subtract(element, repository / name / str(version) / "model.onnx")
    (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name, kind=word, more=more))
    return repository / name


def twice(first: str, second: str) -> str:
    """The configuration of an ensemble of two models that add and subtract: (a + b) + (a - b)."""
    return ENSEMBLE.format(first=first, second=second)


def example_repository(repository: Path) -> Path:
    """`simple`, `simple_int8` and `simple_string`, as Triton's quick start has them."""
    for name in KINDS:
        add_model(repository, name, kind=name)
    return repository
