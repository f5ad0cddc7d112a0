"""Random graphs: whatever the analysis calls independent, the engine answers row by row alike."""

import numpy as np
import onnx
import pytest
from tests.engines.rows.graphs import Case, build, requests, rows_are_alone

from tailcut.engines.rows import analyse_rows
from tailcut.spec import Rows

STEPS = 6
GRAPHS = 60  # a seed


class Composer:
    """Writes a graph in text, one random operator after another, on tensors of whatever shape they have become."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.body: list[str] = ["s = Shape(x) n = Slice(s, [0], [1]) rest = Slice(s, [1], [9])"]
        self.names = ["x", "z"]

    def pick(self, *choices: str) -> str:
        return str(self.random.choice(choices))

    def tensor(self) -> str:
        """Usually one of the latest."""
        back = min(int(self.random.geometric(0.6)), len(self.names))
        return self.names[-back]

    def step(self) -> None:
        a, b, axis = self.tensor(), self.tensor(), self.pick("-2", "-1", "0", "1", "2")
        new = f"t{len(self.names)}"
        kind = self.pick(
            *("unary", "binary", "axis", "reduce", "regroup", "order", "cut", "join", "count", "product", "window"),
            *("letters", "contrib", "list"),
        )
        self.body.append(getattr(self, f"_{kind}")(new, a, b, axis))
        self.names.append(new)

    def _unary(self, new: str, a: str, b: str, axis: str) -> str:
        return f"{new} = {self.pick('Relu', 'Sigmoid', 'Neg', 'Tanh', 'Identity')}({a})"

    def _binary(self, new: str, a: str, b: str, axis: str) -> str:
        return f"{new} = {self.pick('Add', 'Mul', 'Sub', 'Max')}({a}, {b})"

    def _axis(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"{new} = Softmax <axis = {axis}> ({a})",
            f"{new} = CumSum({a}, {{{axis}}})",
            f"{new} = LpNormalization <axis = {axis}> ({a})",
            f"{new}, i{new} = TopK <axis = {axis}> ({a}, [2])",
            f"i{new} = ArgMax <axis = {axis}, keepdims = 1> ({a}) {new} = Cast <to = 1> (i{new})",
        )

    def _reduce(self, new: str, a: str, b: str, axis: str) -> str:
        return (
            f"{new} = {self.pick('ReduceMean', 'ReduceMax')} <axes = [{axis}], keepdims = {self.pick('0', '1')}> ({a})"
        )

    def _regroup(self, new: str, a: str, b: str, axis: str) -> str:
        target = self.pick(
            *(
                "0, -1",
                "-1, 4",
                "-1, 24",
                "1, -1",
                "-1, 2, 12",
                "0, 0, -1",
                "4, -1",
                "-1",
                "0, 2, -1",
                "-1, 4, 6",
                "-1, 1, 4",
            )
        )
        return self.pick(
            f"{new} = Reshape({a}, [{target}])",
            f"{new} = Flatten <axis = {axis}> ({a})",
            f"{new} = Unsqueeze({a}, [{axis}])",
            f"{new} = Squeeze({a}, [{axis}])",
            f"r{new} = Concat <axis = 0> (n, [-1]) {new} = Reshape({a}, r{new})",
            f"r{new} = Concat <axis = 0> ([2], n, [-1]) {new} = Reshape({a}, r{new})",
            f"r{new} = Concat <axis = 0> (n, rest) {new} = Reshape({a}, r{new})",
        )

    def _order(self, new: str, a: str, b: str, axis: str) -> str:
        rank = int(self.random.integers(2, 5))
        permutation = ", ".join(map(str, self.random.permutation(rank)))
        return f"{new} = Transpose <perm = [{permutation}]> ({a})"

    def _cut(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"{new} = Slice({a}, [{self.pick('0', '1', '-2')}], [{self.pick('2', '3', '9999999999')}], [{axis}])",
            f"{new} = Gather <axis = {axis}> ({a}, {self.pick('{0}', '[0]', '[0, 1]', '[-1]')})",
            f"{new} = Slice({a}, [0], n, [{axis}])",
            f"l{new}, {new} = Split <axis = {axis}> ({a})",
            f"{new} = Gather <axis = {axis}> ({a}, i{new})".replace(f"i{new}", "numbers"),
            f"{new} = Trilu({a})",
        )

    def _join(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(f"{new} = Concat <axis = {axis}> ({a}, {b})", f"{new} = Concat <axis = {axis}> ({a}, {a})")

    def _count(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"q{new} = Shape({a}) {new} = Expand({{1.0}}, q{new})",
            f"q{new} = Concat <axis = 0> (n, [1, 1]) w{new} = Expand({{2.0}}, q{new}) {new} = Add({a}, w{new})",
            f"f{new} = Cast <to = 1> (n) {new} = Add({a}, f{new})",
            f"q{new} = Concat <axis = 0> (n, [1, 1]) {new} = Tile({a}, q{new})",
            f"{new} = Tile({a}, [2, 1])",
            f"f{new} = Cast <to = 1> (numbers) u{new} = Unsqueeze(f{new}, [1]) {new} = Mul({a}, u{new})",
        )

    def _product(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"{new} = MatMul({a}, {b})",
            f"t{new} = Transpose <perm = [0, 2, 1]> ({b}) {new} = MatMul({a}, t{new})",
            f"t{new} = Transpose({b}) {new} = MatMul({a}, t{new})",
            f"{new} = Gemm <transB = 1> ({a}, {b})",
        )

    def _window(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"{new} = MaxPool <kernel_shape = [2], pads = [0, 1]> ({a})",
            f"p{new} = Shape({a}) {new} = ConstantOfShape(p{new})",
            f"{new} = Pad({a}, [0, 1, 0, 0, 0, 1])",
        )

    def _letters(self, new: str, a: str, b: str, axis: str) -> str:
        equation = self.pick(
            *("...ij,...kj->...ik", "...ij,...ij->...ij", "...i->...", "...ij->...ji", "i...,i...->i...", "...i,...i"),
            *("...ij,...jk", "ij...->j...", "bi...,bi...->b...", "...j,j->..."),
        )
        inputs = f"{a}, {b}" if "," in equation else a
        return f'{new} = Einsum <equation = "{equation}"> ({inputs})'

    def _contrib(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"{new} = com.microsoft.CDist({a}, {b})",
            f"{new} = com.microsoft.UnfoldTensor <dim = {axis}, size = 2, step = {self.pick('1', '2')}> ({a})",
            f"{new} = com.microsoft.Trilu({a})",
            f"{new} = com.microsoft.Pad({a}, [0, 1, 0, 0, 0, 1])",
            f"j{new} = Cast <to = 6> ({{{axis}}}) {new} = com.microsoft.ExpandDims({a}, j{new})",
            f"{new} = com.microsoft.GatedAdd({a}, {b}, {a})",
            f"{new} = com.microsoft.BranchwiseRMSNorm({a})",
            f"r{new} = com.microsoft.Range({{0}}, b) {new} = Gather <axis = {axis}> ({a}, r{new})",
        )

    def _list(self, new: str, a: str, b: str, axis: str) -> str:
        return self.pick(
            f"q{new} = SequenceConstruct({a}, {b}) {new} = SequenceAt(q{new}, {{{self.pick('0', '1')}}})",
            f"q{new} = SequenceConstruct({a}, {b}) {new} = ConcatFromSequence <axis = {axis}> (q{new})",
            f"q{new} = SequenceConstruct({a}, {b}) {new} = ConcatFromSequence <axis = {axis}, new_axis = 1> (q{new})",
            f"q{new} = SplitToSequence <axis = {axis}> ({a}) {new} = ConcatFromSequence <axis = 1> (q{new})",
        )

    def case(self) -> Case:
        self.body.append("b = Squeeze(n, [0]) numbers = Range({0}, b, {1})")
        for _ in range(STEPS):
            self.step()
        body = f"{' '.join(self.body)} y = Identity({self.names[-1]})"
        return Case(Rows.UNKNOWN, "(float[N, 4, 6] x, float[N, 4, 6] z) => (float y)", body)


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the nodes that the output does not need: the engine runs them, and some fail."""
    needed, kept = {output.name for output in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model


def engine_says(model: onnx.ModelProto) -> bool | None:
    """Whether rows are alone; None where the graph does not run at all."""
    try:
        return rows_are_alone(model, requests(model)) and rows_are_alone(model, requests(model, seed=1))
    except Exception:  # noqa: BLE001  shapes that do not fit
        return None


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))])
def test_independent_means_independent(seed: int) -> None:
    """Of random graphs that run, each one that the analysis calls independent answers a row as it does alone."""
    result = dict.fromkeys(Rows, 0)
    for index in range(GRAPHS):
        case = Composer(1000 * seed + index).case()
        model = pruned(build(case))
        alone = engine_says(model)
        if alone is None:
            continue
        evidence = analyse_rows(model)
        result[evidence.rows] += 1
        assert alone or evidence.rows is not Rows.INDEPENDENT, case.body
    assert result[Rows.INDEPENDENT] > 0
    assert result[Rows.DEPENDENT] > 0
