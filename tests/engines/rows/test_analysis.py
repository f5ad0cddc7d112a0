"""The walk over whole graphs: signatures, names, functions, control flow, and what exporters write."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser
from tests.engines.rows.graphs import Case, build, check, requests, rows_are_alone
from tests.engines.rows.test_rules_layout import CASES as LAYOUTS
from tests.engines.rows.test_rules_vision import CASES as IMAGES

from tailcut.engines.rows import analyse_rows
from tailcut.engines.rows.analysis import _TABLES
from tailcut.engines.rows.sizes import ROWS, symbol
from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"


@pytest.mark.parametrize(
    ("signature", "body", "text"),
    [
        ("(float[1, 4] x) => (float[1, 4] y)", "y = Relu(x)", "the first axis of input 'x' has the fixed length 1"),
        ("(float[N, 4] x) => (float[8, 4] y)", "y = Relu(x)", "the first axis of output 'y' has the fixed length 8"),
        ("(float[N, 4] x, float[2, N, 4] h) => (float y)", "y = Relu(x)", "input 'h'"),
        ("() => (float[N] y)", "y = Constant <value_floats = [1.0]> ()", "no inputs"),
        (
            "(float[N, 4] x) => (float y)",
            "y = ReduceMean <axes = [0]> (x)",
            "ReduceMean over axis 0 (node 'y') mixes the rows",
        ),
        ("(float[N, 4] x) => (float y)", "y = Transpose(x)", "output 'y' has its rows on axis 1"),
        ("(float[N, 4] x) => (float y)", "y = Reshape(x, [-1, 2])", "output 'y' has 2 rows for each row"),
        ("(float[N, 4] x) => (float y)", "y = Relu(w)", "output 'y' does not follow the rows"),
    ],
)
def test_the_reason_names_what_it_is(signature: str, body: str, text: str) -> None:
    """A dependent model's reason is one line that names the tensor or the operator."""
    evidence = analyse_rows(build(Case(NO, signature, body, weights={"w": (3, 4)})))
    assert evidence.rows is NO
    assert text in evidence.reason


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("y = Relu(x) d = Reshape(x, [1, 4])", UNKNOWN),
        ("y = Relu(x) d = Reshape(x, [1, 4]) e = Sigmoid(d)", UNKNOWN),
        ("y = Relu(x) d = Reshape(x, [-1, 2, 2]) e = Sigmoid(d)", YES),
        ("y = ReduceMean <axes = [0]> (x) d = Reshape(x, [1, 4])", NO),
    ],
)
def test_operators_that_no_output_needs_count(body: str, verdict: Rows) -> None:
    """onnxruntime computes them, and may refuse several rows there."""
    model = build(Case(verdict, X, body))
    evidence = analyse_rows(model)
    assert evidence.rows is verdict
    if verdict is UNKNOWN:
        assert evidence.reason == "Reshape (node 'd') expects a fixed number of rows, for no output"
        assert not rows_are_alone(model, requests(model))
    else:
        assert rows_are_alone(model, requests(model)) is (verdict is YES)


def test_a_scalar_input_has_no_first_axis() -> None:
    """An input without axes makes a model dependent, one without a shape unknown."""
    model = build(Case(YES, "(float[N, 4] x, float[N] r) => (float y)", "y = Relu(x)"))
    model.graph.input[1].type.tensor_type.shape.ClearField("dim")
    assert analyse_rows(model).reason == "input 'r' is a single value without a first axis"
    model.graph.input[1].type.tensor_type.ClearField("shape")
    assert analyse_rows(model).rows is UNKNOWN


@pytest.mark.parametrize(
    "names", [("a", "b", "c"), ("unk__1", "unk__2", "unk__1"), ("None", "None", "None"), ("", "", "")]
)
def test_names_of_axes_do_not_matter(names: tuple[str, str, str]) -> None:
    """Inputs' first axes are the rows whatever they are called, and so is the output's."""
    model = build(Case(YES, "(float[N, L, 6] x, float[M, 1, 6] z) => (float[K, P, 6] y)", "y = Add(x, z)"))
    for value, name in zip((*model.graph.input, *model.graph.output), names, strict=True):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        if name:
            dim.dim_param = name
    assert analyse_rows(model).rows is YES


def test_a_name_for_every_axis_names_none() -> None:
    """Where height and width bear one name, they are not taken to be equal."""
    body = "s = Shape(x) w = Slice(s, [2], [3]) t = Concat <axis = 0> ([-1], w, w) y = Reshape(x, t)"
    assert analyse_rows(build(Case(UNKNOWN, "(float[N, L, L] x) => (float y)", body))).rows is UNKNOWN
    body = body.replace("w =", "h = Slice(s, [1], [2]) w =").replace("w, w", "h, w")
    assert analyse_rows(build(Case(YES, "(float[N, L, L] x) => (float y)", body))).rows is YES


def test_an_axis_may_be_called_rows() -> None:
    """An axis with any name at all is not taken for the rows."""
    for name in ("rows", "'a')", "input ('x', 1)"):
        model = build(Case(NO, "(float[N, L] x) => (float y)", "y = Transpose(x)"))
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
        assert analyse_rows(model).rows is NO
        assert symbol("axis", name) not in (ROWS, symbol("input", "x", 1))


def test_functions_of_the_model_are_inlined() -> None:
    """A model's own function is followed into; what it calls is judged."""
    for inner, rows in (("Neg(a)", YES), ("Softmax <axis = 0> (a)", NO)):
        model = parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
            graph (float[N, 4] x) => (float[N, 4] y) {{ y = own.f(x) }}
            <opset_import: ["" : 17], domain: "own"> f (a) => (b) {{ b = {inner} }}""")
        assert analyse_rows(model).rows is rows


def test_weights_that_are_elsewhere_are_not_read() -> None:
    """External data may be missing; shapes are enough."""
    model = build(Case(YES, X, "y = MatMul(x, w)", weights={"w": (4, 3)}))
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="nowhere.bin")
    assert analyse_rows(model).rows is YES


BRANCHES = """<then_branch = left () => (float p) { p = Neg(x) }, else_branch = right () => (float q)
{ q = Softmax <axis = 0> (x) }>"""


@pytest.mark.parametrize(
    ("condition", "rows"), [("s = Shape(x) n = Size(s) c = Equal(n, t)", YES), ("c = Cast <to = 9> (b)", UNKNOWN)]
)
def test_a_condition_that_is_known(condition: str, rows: Rows) -> None:
    """Only the branch of an If that is taken counts; where that cannot be known, neither can the rows."""
    model = parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 4] x, int64[N] b) => (float[N, 4] y) <int64 t = {{2}}> {{ {condition} y = If (c) {BRANCHES} }}""")
    assert analyse_rows(model).rows is rows


SCAN = """d, e = Scan <num_scan_inputs = 1, body = b (float[N, 4] a, float[4] c) => (float[N, 4] f, float[N] g)
{ f = %s h = Sub(a, c) g = ReduceSumSquare <axes = [1], keepdims = 0> (h) }> (x, w) y = Transpose(e)"""


@pytest.mark.parametrize(
    ("state", "rows"), [("Identity(a)", YES), ("Softmax <axis = 0> (a)", NO), ("Concat <axis = 1> (a, a)", UNKNOWN)]
)
def test_a_loop_over_a_table(state: str, rows: Rows) -> None:
    """Distances to a table of neighbours are followed when the loop leaves the rows as they are."""
    head = '<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 7] y)'
    model = parser.parse_model(f"{head} {{ {SCAN % state} }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((7, 4), np.float32), "w"))
    assert analyse_rows(model).rows is rows


def test_a_loop_with_a_count_is_unknown() -> None:
    """Loop is control flow that is not followed."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["i"], ["o"]), helper.make_node("Neg", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("i", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("o", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    model = build(Case(UNKNOWN, X, "y = Relu(x)"))
    model.graph.node[0].CopyFrom(helper.make_node("Loop", ["", "", "x"], ["y"], body=body))
    evidence = analyse_rows(model)
    assert evidence.rows is UNKNOWN
    assert "Loop" in evidence.reason


@pytest.mark.parametrize(
    "case",
    [
        Case(YES, X, "a = MatMul(x, w) b = Relu(a) y = Softmax(b)", opset=6, weights={"w": (4, 3)}),
        Case(YES, X, "r = Reshape(x, [0, 2, 2]) y = ReduceMax <axes = [1], keepdims = 0> (r)", opset=5),
        Case(
            YES,
            "(float[N, 3, 8, 8] x) => (float y)",
            "c = Conv(x, w) y = Flatten(c)",
            opset=1,
            weights={"w": (2, 3, 3, 3)},
        ),
        Case(NO, X, "t = Transpose(x) u = Softmax <axis = 1> (t) y = Transpose(u)", opset=1),
        *(
            Case(UNKNOWN, X, body, opset=opset, runs=False)
            for opset, body in (
                (6, "y = Add <broadcast = 1> (x, x)"),
                (6, "y = Dropout(x)"),
                (5, "y = Tile(x, [1, 2])"),
                (4, "y = Reshape <shape = [0, -1]> (x)"),
                (6, "y = Swish(x)"),
            )
        ),
    ],
    ids=str,
)
def test_old_opsets(case: Case) -> None:
    """Before opset 7 those operators are followed that have not changed since."""
    check(case)


def test_a_model_of_another_domain_alone() -> None:
    """A model of trees need not name the version of the operators that it does not use."""
    model = build(Case(YES, X, "y = ai.onnx.ml.Binarizer <threshold = 0.5> (x)"))
    del model.opset_import[0]
    assert analyse_rows(model).rows is YES


@pytest.mark.parametrize("case", [*LAYOUTS, *IMAGES], ids=str)
def test_malformed_nodes_are_a_verdict(case: Case) -> None:
    """A graph whose nodes lack inputs or attributes is judged; one that lacks its last node is not proven."""
    model = build(case)
    for node in model.graph.node:
        del node.attribute[:]
    assert analyse_rows(model).reason
    for node in model.graph.node:
        del node.input[1:]
    assert analyse_rows(model).reason
    del model.graph.node[:]
    assert analyse_rows(model).rows is UNKNOWN


def test_every_rule_has_a_graph() -> None:
    """Each operator with a rule stands in a graph of these tests."""
    written = set(re.findall(r"\w+", "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))))
    assert {kind for table in _TABLES.values() for kind in table} <= written


HEADS = """s = Shape(x) n = Gather(s, {0}) l = Gather(s, {1}) un = Unsqueeze(n, [0]) ul = Unsqueeze(l, [0])"""
EXPORTED = [
    # Attention as PyTorch's exporter writes it: heads joined with the batch, time first.
    Case(
        YES,
        "(float[N, L, 8] x) => (float y)",
        f"""{HEADS} t = Transpose <perm = [1, 0, 2]> (x) h = Mul(n, {{2}}) uh = Unsqueeze(h, [0])
        k = Concat <axis = 0> (ul, uh, [4]) r = Reshape(t, k) q = Transpose <perm = [1, 0, 2]> (r)
        v = Transpose <perm = [1, 2, 0]> (r) m = MatMul(q, v) a = Softmax <axis = -1> (m) o = MatMul(a, q)
        b = Transpose <perm = [1, 0, 2]> (o) p = Mul(n, l) up = Unsqueeze(p, [0]) c = Concat <axis = 0> (up, [8])
        f = Reshape(b, c) g = MatMul(f, w) e = Concat <axis = 0> (ul, un, [8]) i = Reshape(g, e)
        y = Transpose <perm = [1, 0, 2]> (i)""",
        weights={"w": (8, 8)},
    ),
    # A padding mask looked up by flat indices: row * length + place.
    Case(
        YES,
        "(float[N, L, 8] x, int64[N, L] m) => (float y)",
        f"""{HEADS} a = Range({{0}}, n, {{1}}) b = Reshape(a, [-1, 1, 1]) c = Range({{0}}, l, {{1}}) d = Mul(b, l)
        u = Unsqueeze(c, [0, 1]) i = Add(d, u) f = Reshape(m, [-1]) g = Gather(f, i) k = Cast <to = 9> (g)
        t = Transpose <perm = [0, 2, 1]> (x) p = MatMul(x, t) z = Where(k, p, {{-9.0}}) q = Softmax <axis = -1> (z)
        y = MatMul(q, x)""",
        high=2,
    ),
    # Windows of a hierarchical vision transformer, with one mask for each window.
    Case(
        YES,
        "(float[N, 4, 4, 3] x) => (float y)",
        """r = Reshape(x, [-1, 2, 2, 2, 2, 3]) t = Transpose <perm = [0, 1, 3, 2, 4, 5]> (r) v = Reshape(t, [-1, 4, 3])
        z = Transpose <perm = [0, 2, 1]> (v) a = MatMul(v, z) s = Shape(a) n = Gather(s, [0]) b = Div(n, [4])
        k = Concat <axis = 0> (b, [4, 4, 4]) f = Reshape(a, k) g = Add(f, w) h = Reshape(g, [-1, 4, 4])
        i = Softmax <axis = -1> (h) j = MatMul(i, v) l = Concat <axis = 0> (b, [2, 2, 2, 2, 3]) m = Reshape(j, l)
        o = Transpose <perm = [0, 1, 3, 2, 4, 5]> (m) y = Reshape(o, [-1, 4, 4, 3])""",
        weights={"w": (4, 4, 4)},
    ),
    # A detector's head: anchors from the size of the map, all boxes of an image in one axis.
    Case(
        YES,
        "(float[N, 2, H, W] x) => (float y)",
        """s = Shape(x) h = Gather(s, {2}) w = Gather(s, {3}) fw = Cast <to = 1> (w) gx = Range({0.0}, fw, {1.0})
        fh = Cast <to = 1> (h) gy = Range({0.0}, fh, {1.0}) uh = Unsqueeze(h, [0]) uw = Unsqueeze(w, [0])
        k = Concat <axis = 0> (uh, uw) ex = Reshape(gx, [1, -1]) ax = Expand(ex, k) ey = Reshape(gy, [-1, 1])
        ay = Expand(ey, k) bx = Unsqueeze(ax, [0]) by = Unsqueeze(ay, [0]) a = Concat <axis = 0> (bx, by)
        f = Reshape(a, [1, 2, -1]) n = Gather(s, [0]) t = Concat <axis = 0> (n, [2, -1]) r = Reshape(x, t)
        y = Add(r, f)""",
    ),
    # A text recogniser whose height becomes 1: the target says so, the shape does not.
    Case(
        YES,
        "(float[N, 3, 4, W] x) => (float y)",
        """p = AveragePool <kernel_shape = [4, 1]> (x) s = Shape(p) w = Slice(s, [3], [4])
        k = Concat <axis = 0> ([0, 3], w) r = Reshape(p, k) y = Transpose <perm = [0, 2, 1]> (r)""",
    ),
]


@pytest.mark.parametrize("case", EXPORTED, ids=str)
def test_what_exporters_write(case: Case) -> None:
    """Graphs as exporters write them are seen to keep rows apart, and the engine agrees."""
    check(case)
