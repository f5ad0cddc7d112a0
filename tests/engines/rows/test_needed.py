"""What the outputs of a graph need is kept, and nothing else."""

from onnx import parser

from tailcut.engines.rows.needed import captured, needed_names, remove_unneeded

GRAPH = """<ir_version: 9, opset_import: ["" : 17]>
graph (float[N, 4] x, bool c) => (float[N, 4] y)
{
    a = Relu(x)
    b = Neg(a)
    unused = Sigmoid(b)
    s, rest = Split(x, two)
    y = If (c) <
        then_branch = then () => (float[N, 4] p) { inner = Abs(a) p = Identity(inner) },
        else_branch = else () => (float[N, 4] q) { q = Concat <axis = 1> (s, s) }
    >
}"""


def test_what_branches_take_from_outside_is_needed() -> None:
    """One output that is needed keeps its operator with the other ones."""
    graph = parser.parse_model(GRAPH).graph
    assert sorted(captured(graph.node[-1])) == ["a", "s", "s"]
    assert needed_names(graph) == {"x", "c", "a", "two", "s", "y"}
    assert remove_unneeded(graph)
    assert [node.op_type for node in graph.node] == ["Relu", "Split", "If"]
    assert not remove_unneeded(graph)


def test_constants_are_no_reason_to_edit() -> None:
    """They go with others only."""
    head = '<ir_version: 9, opset_import: ["" : 17]> graph (float[N, 4] x) => (float[N, 4] y)'
    constant = "k = Constant <value_float = 1.0> () y = Relu(x)"
    graph = parser.parse_model(f"{head} {{ {constant} }}").graph
    assert not remove_unneeded(graph)
    assert len(graph.node) == 2
    graph = parser.parse_model(f"{head} {{ {constant} z = Add(x, k) }}").graph
    assert remove_unneeded(graph)
    assert [node.op_type for node in graph.node] == ["Relu"]
