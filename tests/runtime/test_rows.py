"""How the signature, the graph, the proof and the user make one decision."""

from dataclasses import replace

import pytest

from tailcut.errors import UnsupportedError, UsageError
from tailcut.runtime.model import Model
from tailcut.runtime.rows import RowDecision, RowsSetting, decide_rows, needs_proof, read_signature
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, Shape, TensorSpec

INDEPENDENT, DEPENDENT, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN


def spec_of(graph: Rows = INDEPENDENT, x: Shape = (None, 4), y: Shape = (None, 3), axis: str = "batch") -> ModelSpec:
    inputs = (TensorSpec("x", DType.FP32, x, first_axis=axis),)
    return ModelSpec("m", inputs, (TensorSpec("y", DType.FP32, y),), graph, "the graph's reason")


def decided(graph: Rows, proof: Rows | None, user: RowsSetting = "auto") -> RowDecision:
    result = None if proof is None else RowEvidence(proof, "the proof's reason")
    return decide_rows(spec_of(graph), result, user)


@pytest.mark.parametrize(
    ("graph", "proof", "rows", "words"),
    [
        (INDEPENDENT, INDEPENDENT, INDEPENDENT, ["graph's", "proof's"]),
        (INDEPENDENT, UNKNOWN, INDEPENDENT, ["graph's", "not proven at run time", "proof's"]),
        (INDEPENDENT, DEPENDENT, DEPENDENT, ["proof's"]),
        (DEPENDENT, None, DEPENDENT, ["graph's"]),
        (DEPENDENT, INDEPENDENT, DEPENDENT, ["graph's"]),
        (UNKNOWN, INDEPENDENT, UNKNOWN, ["graph's", "no difference", "--batching on"]),
        (UNKNOWN, UNKNOWN, UNKNOWN, ["graph's", "--batching on"]),
        (UNKNOWN, DEPENDENT, DEPENDENT, ["proof's"]),
    ],
)
def test_a_negative_result_wins_and_a_proof_alone_is_not_enough(
    graph: Rows, proof: Rows | None, rows: Rows, words: list[str]
) -> None:
    """Only what the graph shows to be independent is batched, and only where the proof does not contradict it."""
    decision = decided(graph, proof)
    assert decision.rows is rows
    assert decision.batched == (rows is INDEPENDENT)
    assert decision.warning == ""
    for word in words:
        assert word in decision.reason


@pytest.mark.parametrize("graph", list(Rows))
@pytest.mark.parametrize("proof", [None, *Rows])
def test_the_user_has_the_last_word(graph: Rows, proof: Rows | None) -> None:
    """Batching that is asked for is obeyed; against negative evidence, with one warning."""
    on = decided(graph, proof, "independent")
    assert (on.rows, on.batched) == (INDEPENDENT, True)
    assert bool(on.warning) == (DEPENDENT in {graph, proof})
    off = decided(graph, proof, "dependent")
    assert (off.rows, off.batched, off.warning) == (DEPENDENT, False, "")
    assert "user" in on.reason
    assert "user" in off.reason


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [((1, 4), (None, 3), ["'x'", "fixed at 1"]), ((None, 4), (), ["'y'", "no axes"]), ((3, 2), (3, 2), ["fixed at 3"])],
)
def test_what_its_shapes_rule_out_is_never_batched(x: Shape, y: Shape, words: list[str]) -> None:
    """Whatever the graph says; asking for it is a mistake that is named in one line."""
    spec = spec_of(INDEPENDENT, x, y)
    decision = decide_rows(spec, None, "auto")
    assert decision.rows is DEPENDENT
    for word in words:
        assert word in decision.reason
    with pytest.raises(UnsupportedError, match=r"cannot be batched.*--batching"):
        decide_rows(spec, None, "independent")
    assert not needs_proof(spec, "auto")


def test_names_of_axes_are_only_a_hint() -> None:
    """They are shown, and decide nothing."""
    for axis, shown in (("batch", "'batch'"), ("frames", "'frames'"), ("", "no name")):
        result = read_signature(spec_of(UNKNOWN, axis=axis))
        assert result.rows is UNKNOWN
        assert shown in result.reason


@pytest.mark.parametrize(
    ("graph", "user", "wanted"),
    [
        (INDEPENDENT, "auto", True),
        (UNKNOWN, "auto", True),
        (UNKNOWN, "independent", True),
        (DEPENDENT, "auto", False),
        (INDEPENDENT, "dependent", False),
    ],
)
def test_the_proof_is_made_where_it_can_change_something(graph: Rows, user: RowsSetting, wanted: bool) -> None:
    """A decision that is certain without it costs no time at start."""
    assert needs_proof(spec_of(graph), user) == wanted


def test_a_model_is_batched_when_its_shapes_and_its_rows_allow_it() -> None:
    """Free first axes alone are not a batch."""
    spec = spec_of()
    assert spec.batched
    assert not replace(spec, rows=UNKNOWN).batched
    assert not replace(spec, rows=DEPENDENT).fixed_rows
    assert replace(spec, rows=DEPENDENT).batchable
    assert not spec_of(x=(1, 4)).batched


@pytest.mark.parametrize("batching", [True, "yes", "ON", ["on"], 1])
def test_batching_is_one_of_three_words(batching: object) -> None:
    """For a model and for a pipeline, before the file is looked for."""
    for source in ("m.onnx", "embed.py:pipeline"):
        with pytest.raises(UsageError, match=r"^batching must be 'auto', 'on', 'off' or None, got "):
            Model.open(source, batching=batching)
