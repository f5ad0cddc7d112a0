"""Steps that do not fit together are one clear line; what fits has the first one's inputs and the last's outputs."""

import pytest

from tailcut import Pipeline, stage
from tailcut.errors import UsageError
from tailcut.pipelines.plan import PipelineStep, plan_pipeline
from tailcut.pipelines.tensors import parse_tensors
from tailcut.spec import Rows


def step(name, inputs, outputs, *, kind="stage", independent=True):
    return PipelineStep(
        kind, name, parse_tensors(name, "inputs", inputs), parse_tensors(name, "outputs", outputs), independent
    )


FIRST = step("first", {"a": "FP32[-1]", "b": "BYTES"}, {"c": "FP32[4]"})


def test_the_ends_are_the_pipelines():
    """A later step may take what an earlier one took."""
    spec = plan_pipeline("p", [FIRST, step("last", {"c": "FP32[-1]", "b": "BYTES"}, {"d": "INT64"})])
    assert (spec.input_names, spec.output_names, spec.batched) == (("a", "b"), ("d",), True)


def test_a_model_of_dependent_rows_makes_the_pipeline_so():
    """The reason names it."""
    spec = plan_pipeline("p", [FIRST, step("m", {"c": "FP32[4]"}, {"d": "INT64"}, kind="model", independent=False)])
    assert spec.rows is Rows.DEPENDENT
    assert "model 'm'" in spec.rows_reason


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": "FP32"}, "stage 'last': input 'x' .FP32 .-1.. comes from no step before it; there is a, b, c"),
        ({"c": "FP64[4]"}, r"input 'c': expected FP64 \[-1, 4\], got FP32 \[-1, 4\] from stage 'first'"),
        ({"c": "FP32[5]"}, r"expected FP32 \[-1, 5\], got FP32 \[-1, 4\] from stage 'first'"),
        (
            {"c": "FP32[-1, 4]"},
            r"got FP32 \[-1, 4\] from stage 'first': a stage declares the shape of one row, without the batch",
        ),
        ({"a": "FP32"}, r"expected FP32 \[-1\], got FP32 \[-1, -1\] from the request"),
    ],
)
def test_what_does_not_connect_is_named(inputs, message):
    """Stage, tensor, expected and got."""
    with pytest.raises(UsageError, match=message):
        plan_pipeline("p", [FIRST, step("last", inputs, {"d": "INT64"})])


def test_names_of_steps_differ():
    """Statistics go by them."""
    with pytest.raises(UsageError, match="two steps are called 'first'"):
        plan_pipeline("p", [FIRST, FIRST])


@pytest.mark.parametrize("steps", [[], "model.onnx", [len], [7]])
def test_steps_are_stages_and_paths(steps):
    """The error for a bare function says to make it a stage."""
    with pytest.raises(UsageError, match="pipeline 'p'"):
        Pipeline("p", steps)


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"workers": True},
        {"max_batch_size": 0},
        {"timeout_s": 0},
        {"timeout_s": "1s"},
        {"cpus": ["a"]},
        {"inputs": {"x": "FP32", "z": "FP32"}},
    ],
)
def test_settings_are_checked(settings):
    """When the file is read."""
    with pytest.raises(UsageError, match="stage 'f'"):
        stage(**{"inputs": {"x": "FP32"}, "outputs": {"y": "FP32"}} | settings)(_named_f)


def _named_f(x):
    return x


_named_f.__name__ = "f"
