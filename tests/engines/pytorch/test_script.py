"""TorchScript: only from files that are trusted, with the signature that the settings declare."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.torch.script import seen_signature
from tailcut.engines.trust import _VARIABLE, trust
from tailcut.errors import EngineError, ModelFileError, ReleasedError, TailcutError, UnsupportedError, UsageError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import Rows
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import engine_choices
from tailcut.tuner.ways import way_settings

torch = programs.torch
SIGNATURE = ("input x FP32 [-1, 4]", "output total FP32 [-1, 4]", "output mean FP32 [-1, 1]")


class Two(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.mean(1, keepdim=True)


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_VARIABLE, "")


def saved(path: Path, module: Any) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def options(**changes: Any) -> EngineOptions:
    return EngineOptions(**{"name": "torch", "threads": 1, "signature": SIGNATURE, **changes})


def test_answers(tmp_path: Path) -> None:
    """ExactRange and run, for any number of rows; nothing is known of the rows."""
    path = saved(tmp_path / "two.pt", Two())
    assert kind_of(path) is FileKind.SCRIPT
    trust(path)
    engine = open_engine(path, options())
    assert engine.spec.rows is Rows.UNKNOWN
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
        result = engine.run({"x": x})
        assert np.allclose(result["total"], 2 * x)
        assert np.allclose(result["mean"], x.mean(1, keepdims=True))
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    item = np.ones((1, 4), np.float32)
    total, mean = np.zeros((1, 4), np.float32), np.zeros((1, 1), np.float32)
    engine.bind({"x": item}, {"total": total, "mean": mean})()
    assert (total == 2).all()
    engine.close()
    with pytest.raises(ReleasedError):
        engine.run({"x": item})


def test_it_is_not_loaded_without_trust(tmp_path: Path) -> None:
    """The line says what to do; a folder that is trusted has all of its files trusted."""
    path = saved(tmp_path / "two.pt", Two())
    with pytest.raises(UnsupportedError, match=r"TorchScript can run any code: .*\(--trust\)"):
        open_engine(path, options())
    trust(tmp_path)
    open_engine(path, options()).close()


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ((), "does not declare its inputs and outputs"),
        (("input x FP32 [-1, 4]",), "does not declare its inputs and outputs"),
        (("input x FP33 [-1]", "output y FP32 [-1]"), "is not of the form"),
        (("x FP32 [-1]",), "is not of the form"),
    ],
)
def test_a_signature_is_needed(tmp_path: Path, signature: tuple[str, ...], message: str) -> None:
    """And checked, before the file is loaded."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    with pytest.raises(UnsupportedError, match=message):
        open_engine(path, options(signature=signature))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (SIGNATURE[:2], "returns 2 tensors, but total are declared"),
        ((SIGNATURE[0], "output total FP32 [-1, 5]", SIGNATURE[2]), r"'total' is float32 \[1, 4\], but declared as"),
    ],
)
def test_a_wrong_signature_fails_the_call(tmp_path: Path, signature: tuple[str, ...], message: str) -> None:
    """In one line."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    engine = open_engine(path, options(signature=signature))
    inputs = {name: np.ones((1, 4), np.float32) for name in engine.spec.input_names}
    with pytest.raises(EngineError, match=message) as caught:
        engine.run(inputs)
    assert "\n" not in str(caught.value)


class Difference(torch.nn.Module):
    """Three parameters, one with a default."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        return a - b if c is None else a - b * c


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("ab", 3),
        ("ba", 3),
        ("cba", -15),
        ("xy", 3),  # in their order
        ("bx", 3),  # likewise, because one is no parameter
    ],
)
def test_inputs_go_to_the_parameters_that_they_are_named_after(tmp_path: Path, names: str, expected: float) -> None:
    """If all are, whatever their order is; parameters with a default may be left out."""
    path = saved(tmp_path / "difference.pt", Difference())
    trust(path)
    signature = (*(f"input {name} FP32 [-1]" for name in names), "output d FP32 [-1]")
    engine = open_engine(path, options(signature=signature))
    values = {"a": 5, "b": 2, "c": 10} if names not in {"xy", "bx"} else dict(zip(names, (5, 2), strict=True))
    inputs = {name: np.full(3, values[name], np.float32) for name in names}
    assert (engine.run(inputs)["d"] == expected).all()
    d = np.zeros(3, np.float32)
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    engine.bind(inputs, {"d": d})()
    assert (d == expected).all()
    engine.close()


class Listed(torch.nn.Module):
    def forward(self, x: list[torch.Tensor], y: dict[str, torch.Tensor]) -> torch.Tensor:
        return x[0] + y["a"]


@pytest.mark.parametrize(
    ("module", "names", "message"),
    [
        (Difference(), "a", "forward needs 'b', but no declared input is for it"),
        (Difference(), "bc", "forward needs 'a', but no declared input is for it"),
        (Difference(), "x", "forward needs 'b', but no declared input is for it"),
        (Difference(), "abcd", r"4 inputs are declared, but forward takes 3 \(a, b, c\)"),
        (Listed(), "xy", r"the parameter 'x' of forward is a List\[Tensor\]: only tensors, or one dict of tensors"),
        (Listed(), "y", "forward needs 'x'"),
    ],
)
def test_inputs_that_forward_cannot_be_called_with(tmp_path: Path, module: Any, names: str, message: str) -> None:
    """The model is refused when it is loaded; each of its requests would fail."""
    path = saved(tmp_path / "m.pt", module)
    trust(path)
    signature = (*(f"input {name} FP32 [-1]" for name in names), "output d FP32 [-1]")
    with pytest.raises(UnsupportedError, match=message):
        open_engine(path, options(signature=signature))


class Unusual(torch.nn.Module):
    @torch.jit.export
    def infer(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_module_without_forward_is_refused(tmp_path: Path) -> None:
    """When it is loaded."""
    path = saved(tmp_path / "unusual.pt", Unusual())
    trust(path)
    with pytest.raises(ModelFileError, match="the module has no forward"):
        open_engine(path, options())


class Keyed(torch.nn.Module):
    """Takes a dict of tensors, and returns one."""

    def forward(self, both: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"one": both["a"] - both["b"], "two": both["a"] * 2}


def test_a_dict_of_tensors(tmp_path: Path) -> None:
    """Inputs and outputs go by their names; with other names, outputs are in the order of the dict."""
    path = saved(tmp_path / "keyed.pt", Keyed())
    trust(path)
    inputs = {"b": np.full((2, 3), 2, np.float32), "a": np.full((2, 3), 5, np.float32)}
    ins = tuple(f"input {name} FP32 [-1, 3]" for name in inputs)
    for names, values in (("two one", (10, 3)), ("one two", (3, 10)), ("y z", (3, 10)), ("two y", (3, 10))):
        outs = tuple(f"output {name} FP32 [-1, 3]" for name in names.split())
        engine = open_engine(path, options(signature=ins + outs))
        result = engine.run(inputs)
        assert tuple(result[name][0, 0] for name in names.split()) == values
        engine.close()
    seen = seen_signature(path, {"b/x": inputs["b"], "a/x": inputs["a"]})
    assert seen == (*ins, "output one FP32 [-1, 3]", "output two FP32 [-1, 3]")


@pytest.mark.parametrize("declared", ["INT32", "FP16", "BF16", "FP64"])
def test_an_output_of_another_type_fails_the_call(tmp_path: Path, declared: str) -> None:
    """In one line, also where it would be copied into rows, and rounded."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    free, fixed = (
        open_engine(path, options(signature=(SIGNATURE[0], f"output total {declared} [-1, {size}]", SIGNATURE[2])))
        for size in (-1, 4)
    )
    item = np.ones((1, 4), np.float32)
    with pytest.raises(EngineError, match=f"'total' is float32 .1, 4., but declared as {declared}"):
        free.run({"x": item})
    fixed.spec = replace(fixed.spec, rows=Rows.INDEPENDENT)
    outputs = {tensor.name: np.zeros((1, *tensor.row_shape), tensor.dtype.numpy) for tensor in fixed.spec.outputs}
    with pytest.raises(EngineError, match="output 'total' is float32, not "):
        fixed.bind({"x": item}, outputs)()


class Writing(torch.nn.Module):
    """Writes into its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


def test_a_module_that_writes_into_its_input(tmp_path: Path) -> None:
    """The caller's array stays as it is, and the same request has the same answer."""
    path = saved(tmp_path / "writing.pt", Writing())
    trust(path)
    x = np.ones((1, 3), np.float32)
    settings = Settings(engine=options(signature=("input x FP32 [-1, 3]", "output y FP32 [-1, 3]")))
    with Model.open(Profile.of_model(path, settings)) as model:
        assert [float(model.infer_sync({"x": x})["y"][0, 0]) for _ in range(3)] == [4, 4, 4]
    assert (x == 1).all()


class Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.ones(1, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, self.table


def test_a_module_that_returns_a_parameter(tmp_path: Path) -> None:
    """It answers, also in rows, which then record no gradients."""
    path = saved(tmp_path / "constant.pt", Constant())
    trust(path)
    signature = ("input x FP32 [-1, 3]", "output y FP32 [-1, 3]", "output table FP32 [-1, 3]")
    engine = open_engine(path, options(signature=signature))
    x = np.zeros((1, 3), np.float32)
    assert (engine.run({"x": x})["table"] == 1).all()
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    outputs = {name: np.zeros((1, 3), np.float32) for name in ("y", "table")}
    call = engine.bind({"x": x}, outputs)
    call()
    call()
    assert (outputs["table"] == 1).all()
    assert seen_signature(path, {"x": x})[0] == signature[0]


def test_batches_are_the_users_word(tmp_path: Path) -> None:
    """Requests share calls if the profile declares rows independent; the profile contains the signature."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    settings = Settings(engine=options(), batching=BatchingSettings(rows="independent"))
    Profile.of_model(path, settings).save(tmp_path / "two.profile.toml")
    with Model.open(tmp_path / "two.profile.toml") as model:
        assert model.spec.batched
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        assert np.allclose(model.infer_sync({"x": x})["total"], 2 * x)


class Tokens(torch.nn.Module):
    """Two inputs, one of them with a free length, and two outputs by name, one without a length."""

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = ids.to(torch.float32)[:, :, None] * scale[:, None, :]
        return {"hidden": hidden, "pooled": hidden.mean(1)}


def arrays(*lengths: int) -> dict[str, np.ndarray]:
    ids = {f"ids/{length}": np.arange(3 * length).reshape(3, length) for length in lengths}
    return ids | {f"scale/{length}": np.ones((3, 2)) for length in lengths}


def test_a_signature_is_seen_in_calls(tmp_path: Path) -> None:
    """Rows and lengths are free, float64 of the data is float32, and a dict's keys are names."""
    path = saved(tmp_path / "tokens.pt", Tokens())
    trust(path)
    rest = ("input scale FP32 [-1, 2]",)
    expected = ("input ids INT64 [-1, -1]", *rest, "output hidden FP32 [-1, -1, 2]", "output pooled FP32 [-1, 2]")
    assert seen_signature(path, arrays(4, 7)) == expected
    fixed = ("input ids INT64 [-1, 4]", *rest, "output hidden FP32 [-1, 4, 2]", "output pooled FP32 [-1, 2]")
    assert seen_signature(path, {"ids": np.ones((1, 4), int), "scale": np.ones((1, 2))}) == fixed
    open_engine(path, options(signature=expected)).close()


class Times(torch.nn.Module):
    def forward(self, x: torch.Tensor, k: int = 2) -> torch.Tensor:
        return x * k


def test_one_array_without_a_name_is_the_only_input(tmp_path: Path) -> None:
    """Of an .npy file, beside parameters with defaults; outputs of a tuple have numbers."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    result = seen_signature(path, {"": np.ones((5, 4), np.float32)})
    assert result == ("input x FP32 [-1, 4]", "output output_0 FP32 [-1, 4]", "output output_1 FP32 [-1, 1]")
    times = saved(tmp_path / "times.pt", Times())
    trust(times)
    assert seen_signature(times, {"": np.ones((5, 4), np.float32)})[0] == "input x FP32 [-1, 4]"


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_parameters_with_defaults_may_be_left_out(tmp_path: Path, names: str) -> None:
    """Those that the data have are inputs."""
    path = saved(tmp_path / "difference.pt", Difference())
    trust(path)
    seen = seen_signature(path, {name: np.ones((2, 3), np.float32) for name in names})
    assert seen == (*(f"input {name} FP32 [-1, 3]" for name in names), "output output FP32 [-1, 3]")
    with pytest.raises(UsageError, match="has the arrays a, c; forward takes a, b, c"):
        seen_signature(path, {name: np.ones((2, 3), np.float32) for name in "ac"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": np.ones((2, 4))}, "has the arrays y; forward takes x"),
        ({}, "forward takes x"),
        ({"x": np.ones((0, 4))}, "an array without rows"),
        ({"x": np.float32(1)}, "an array without rows"),
        ({"x": np.array(["a"])}, "of a type that PyTorch lacks"),
        ({"x": np.ones((2, 4), bool)}, "PyTorch failed on the data"),
    ],
)
def test_data_that_are_not_the_inputs(tmp_path: Path, data: dict, message: str) -> None:
    """One line each."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    with pytest.raises(TailcutError, match=message) as caught:
        seen_signature(path, data)
    assert "\n" not in str(caught.value)


def test_data_do_not_make_a_file_trusted(tmp_path: Path) -> None:
    """Nothing is loaded to look at it."""
    with pytest.raises(UnsupportedError, match="--trust"):
        seen_signature(saved(tmp_path / "two.pt", Two()), {"x": np.ones((2, 4))})


def test_images_with_channels_last(tmp_path: Path) -> None:
    """A layout of memory, and the same answers; what changes the answers' names or sizes is refused."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    path = tmp_path / "net.pt"
    torch.jit.trace(net.eval(), torch.randn(2, 3, 8, 8)).save(str(path))
    trust(path)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    signature = seen_signature(path, {"input": x})
    plain, last = (
        open_engine(path, options(signature=signature, layout=layout)) for layout in ("blocked", "channels_last")
    )
    assert last._module.state_dict()["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(plain.run({"input": x})["output"], last.run({"input": x})["output"], atol=1e-5)
    for wrong in ({"outputs": ("output",)}, {"fixed_dims": ("input:0=1",)}):
        with pytest.raises(UnsupportedError, match="declare them in its signature"):
            open_engine(path, options(signature=signature, **wrong))


def test_it_is_tuned_with_data(tmp_path: Path) -> None:
    """Everything that is tried computes the signature that the data showed, eagerly and in float32."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    wanted = TuneRequest(
        path, {"": np.random.default_rng(0).standard_normal((32, 4))}, budget_s=10.0, rows="independent"
    )
    session = open_session(wanted, lambda event: None)
    space = ModelSpace(session)
    signature = (SIGNATURE[0], "output output_0 FP32 [-1, 4]", "output output_1 FP32 [-1, 1]")
    assert session.spec.batched
    assert (session.base.engine.name, session.base.engine.signature) == ("torch", signature)
    assert way_settings(space.facts, "worker").engine.signature == signature
    choices = engine_choices(space.facts)
    space.close()
    assert {item.layout for item in choices} == {"blocked", "channels_last"}
    assert {(item.compiler, item.precision, item.signature) for item in choices} == {("eager", "f32", signature)}
    assert "signature" not in Settings(engine=choices[0]).describe()
