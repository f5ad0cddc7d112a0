"""PyTorch's exported programs behind the engine protocol, in `Model.open`, and in a server."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engines.pytorch import programs
from tests.hidden import without
from tests.servers import json_request, serving

from tailcut import Model
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import U8Input
from tailcut.engines.torch import passes
from tailcut.engines.torch.program import read_program
from tailcut.errors import EngineError, ModelFileError, ReleasedError, UnsupportedError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.spec import Rows

torch = programs.torch
COMPILES = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.example(tmp_path_factory.mktemp("engine"))


def options(**settings: object) -> EngineOptions:
    return EngineOptions(name="torch", threads=1, **settings)


def answer(path: Path, x: np.ndarray) -> np.ndarray:
    return torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()


def rows(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)


def test_runs_any_number_of_rows(mlp: Path) -> None:
    """The free axis of the program is free in the spec, and answers are PyTorch's own."""
    engine = open_engine(mlp, options())
    assert engine.spec.inputs[0].shape == (None, 16)
    assert engine.spec.output_names == ("output",)
    assert engine.spec.batched
    for count in (1, 2, 7):
        x = rows(count, 16)
        assert np.array_equal(engine.run({"x": x})["output"], answer(mlp, x))
    engine.close()
    with pytest.raises(ReleasedError):
        engine.run({"x": x})


def test_writes_into_the_bound_rows(mlp: Path) -> None:
    """The last operator has a variant that takes its output, and what is bound is computed anew at each call."""
    module = passes.flat(torch.export.load(mlp), [0])
    assert passes.into_rows(module) is not None
    engine = open_engine(mlp, options())
    x, y = rows(3, 16), np.full((3, 4), np.nan, np.float32)
    call = engine.bind({"x": x}, {"output": y})
    for scale in (1, 2):
        x *= scale
        call()
        assert np.array_equal(y, answer(mlp, x))


def test_copies_where_the_last_operator_cannot_write(tmp_path: Path) -> None:
    """A view has no variant with an output; two outputs that are one tensor have not either."""
    for number, compute in enumerate([lambda x: (x * 2).view(-1, 2, 3), lambda x: ((y := x + 1), y)]):
        path = programs.function(tmp_path / f"m{number}.pt2", compute, 6)
        engine = open_engine(path, options())
        x = rows(2, 6)
        outputs = {item.name: np.zeros((2, *item.row_shape), np.float32) for item in engine.spec.outputs}
        engine.bind({"x": x}, outputs)()
        expected = engine.run({"x": x})
        assert all(np.array_equal(array, expected[name]) and array.any() for name, array in outputs.items())


@pytest.mark.parametrize(
    "settings", [{"precision": "bf16"}, {"layout": "channels_last"}], ids=["bf16", "channels_last"]
)
def test_settings_change_little(tmp_path: Path, settings: dict[str, str]) -> None:
    """bfloat16 products and channels last give the same answers, up to their rounding."""
    path = programs.images(tmp_path / "images.pt2")
    try:
        engine = open_engine(path, options(**settings))
    except UnsupportedError as error:
        pytest.skip(str(error))
    x = rows(3, 3, 16, 16)
    expected, result = answer(path, x), engine.run({"x": x})["output"]
    assert np.abs(result - expected).max() < (0.02 if "precision" in settings else 1e-5)
    assert "precision" not in settings or not np.array_equal(result, expected)


class Scaled(torch.nn.Module):
    def forward(self, x: Any, scale: Any = None) -> Any:
        return x * scale


def test_inputs_that_were_exported_by_name(tmp_path: Path) -> None:
    """Keyword arguments of `torch.export.export` are inputs like the others, in the order of the program."""
    x, scale = torch.randn(3, 4), torch.randn(3, 4)
    axes = {"x": {0: programs.BATCH}, "scale": {0: programs.BATCH}}
    exported = torch.export.export(Scaled(), (x,), kwargs={"scale": scale}, dynamic_shapes=axes)
    torch.export.save(exported, tmp_path / "named.pt2")
    engine = open_engine(tmp_path / "named.pt2", options())
    assert engine.spec.input_names == ("x", "scale")
    result = engine.run({"x": x.numpy(), "scale": scale.numpy()})["output"]
    assert np.array_equal(result, (x * scale).numpy())


@pytest.mark.skipif(not COMPILES, reason="needs a C++ compiler")
@pytest.mark.parametrize("compiler", ["inductor", "aot_inductor"])
def test_compiled_programs_answer_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    """For one row and for many, run and bound."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = programs.function(tmp_path / "m.pt2", lambda x: torch.tanh(x) * x + 1, 4)
    engine = open_engine(path, options(compiler=compiler))
    for count in (1, 2, 5):
        x, y = rows(count, 4), np.zeros((count, 4), np.float32)
        engine.bind({"x": x}, {"output": y})()
        assert np.allclose(y, answer(path, x), atol=1e-6)
        assert np.array_equal(engine.run({"x": x})["output"], y)


def test_a_missing_compiler_is_one_line(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what to use instead."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnsupportedError, match="needs a C\\+\\+ compiler"):
        open_engine(mlp, options(compiler="inductor"))


def test_settings_that_it_does_not_have(mlp: Path) -> None:
    """Are refused, and not ignored."""
    for settings in ({"precision": "int8"}, {"fixed_dims": ("nothing=3",)}, {"outputs": ("no",)}):
        with pytest.raises(UnsupportedError):
            open_engine(mlp, options(**settings))
    with pytest.raises(UnsupportedError, match="onnxruntime has no layout"):
        open_engine(mlp.parent / "none.onnx", EngineOptions(layout="channels_last"))


def test_outputs_and_sizes_that_are_chosen(tmp_path: Path) -> None:
    """Only one output is computed; a fixed axis is fixed wherever its symbol stands."""
    path = programs.encoder(tmp_path / "encoder.pt2")
    engine = open_engine(path, options(outputs=("hidden",), fixed_dims=("ids:1=8",)))
    assert [item.shape for item in engine.spec.inputs + engine.spec.outputs] == [(None, 8), (None, 8), (None, 8, 16)]
    assert engine.spec.fixed_rows


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (lambda x: {"a.b": x * 2, "a": {"b": x + 1}}, "a.b"),
        (lambda x: {0: x * 2, "0": x + 1, 1: x + 2}, "0"),
    ],
)
def test_outputs_whose_names_coincide_are_refused(tmp_path: Path, compute: Callable[[Any], Any], name: str) -> None:
    """One of the two would be lost, and the other one have the answers of either."""
    path = programs.function(tmp_path / "twice.pt2", compute, 4)
    with pytest.raises(UnsupportedError, match=f"two outputs are called '{name}': export the program with other keys"):
        open_engine(path, options())


def test_bfloat16_on_the_wire(tmp_path: Path) -> None:
    """numpy has no such type, so tensors go by their bits."""
    path = tmp_path / "half.pt2"
    programs.save(
        path, programs.Function(lambda x: x * 2), (torch.ones(2, 3, dtype=torch.bfloat16),), {"x": {0: programs.BATCH}}
    )
    engine = open_engine(path, options())
    x = rows(4, 3).astype(engine.spec.inputs[0].dtype.numpy)
    assert np.array_equal(engine.run({"x": x})["output"], x * 2)


def test_a_program_that_remembers_is_refused(tmp_path: Path) -> None:
    """Its answers would depend on other requests."""

    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: object) -> object:
            self.calls.add_(1)
            return x + self.calls

    path = programs.save(tmp_path / "m.pt2", Counter(), (torch.ones(2, 3),), {"x": {0: programs.BATCH}})
    with pytest.raises(UnsupportedError, match=r"changes 'calls' at each call: export it in eval\(\) mode"):
        open_engine(path, options())


def test_a_program_that_writes_into_its_input_is_refused(tmp_path: Path) -> None:
    """In other words, because its mode changes nothing there."""
    path = programs.function(tmp_path / "m.pt2", lambda x: x.add_(1) * 2, 3)
    with pytest.raises(UnsupportedError, match="writes into its input 'x': have forward copy it first"):
        open_engine(path, options())


@pytest.mark.parametrize("view", ["chunk", "split", "unbind"])
def test_a_program_that_changes_one_of_several_views_is_refused(tmp_path: Path, view: str) -> None:
    """Of its state, or of its input, which is the caller's array: chunk and split return lists of views."""

    def parts(tensor: object) -> object:
        return {"chunk": lambda t: t.chunk(2), "split": lambda t: t.split([1, 1]), "unbind": lambda t: t.unbind()}[
            view
        ](tensor)

    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(2, 3))

        def forward(self, x: object) -> object:
            first, _ = parts(self.calls)
            first.add_(1)
            return x + self.calls.sum(0)

    path = programs.save(tmp_path / "state.pt2", Counter(), (torch.ones(2, 3),), {"x": {0: programs.BATCH}})
    with pytest.raises(UnsupportedError, match="changes 'calls' at each call"):
        open_engine(path, options())

    class Writer(torch.nn.Module):
        def forward(self, x: object) -> object:
            parts(x.t()[:2])[0].mul_(2)
            return x + 1

    path = programs.save(tmp_path / "input.pt2", Writer(), (torch.ones(2, 3),), {"x": {0: programs.BATCH}})
    with pytest.raises(UnsupportedError, match="writes into its input 'x': have forward copy it first"):
        open_engine(path, options())


def test_a_program_that_writes_into_its_input_by_out_is_refused(tmp_path: Path) -> None:
    """What an operator returns that was given its output is that output, too."""

    class Writer(torch.nn.Module):
        def forward(self, x: object) -> object:
            return torch.add(x, 1, out=x).mul_(2)

    class Own(torch.nn.Module):
        def forward(self, x: object) -> object:
            return torch.add(x, 1, out=torch.empty_like(x)).mul_(2)

    dims = {"x": {0: programs.BATCH}}
    path = programs.save(tmp_path / "input.pt2", Writer(), (torch.ones(2, 3),), dims)
    with pytest.raises(UnsupportedError, match="writes into its input 'x'"):
        open_engine(path, options())
    path = programs.save(tmp_path / "own.pt2", Own(), (torch.ones(2, 3),), dims)
    engine = open_engine(path, options())
    assert engine.run({"x": np.ones((2, 3), np.float32)})["output"].tolist() == [[4] * 3] * 2
    engine.close()


def test_a_failed_call_is_one_line(tmp_path: Path) -> None:
    """An index that the program itself computes; the next call works."""
    engine = open_engine(programs.indexing(tmp_path / "index.pt2", shift=1), options())
    with pytest.raises(EngineError, match="PyTorch failed: ") as caught:
        engine.run({"x": np.array([[3]])})
    assert "\n" not in str(caught.value)
    assert engine.run({"x": np.array([[2]])})["output"].tolist() == [[3.0]]


def test_threads_are_each_callers_own(mlp: Path) -> None:
    """Two engines with other numbers of threads, called in turns from two threads."""
    result: list[int] = []
    engines = [open_engine(mlp, EngineOptions(name="torch", threads=count)) for count in (1, 2)]

    def call() -> None:
        for engine in engines * 2:
            engine.run({"x": rows(1, 16)})
            result.append(torch.get_num_threads())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    call()
    assert result == [1, 2] * 4


def test_model_open_batches_it(mlp: Path) -> None:
    """The graph says that its rows are independent, and the run-time proof agrees."""
    with Model.open(mlp, auto=False) as model:
        assert model.rows.rows is Rows.INDEPENDENT
        assert model.rows.graph is not None
        assert model.profile.settings.engine.name == "torch"
        x = rows(40, 16)  # more than a batch
        assert np.allclose(model.infer_sync({"x": x})["output"], answer(mlp, x), atol=1e-6)


def test_opening_and_serving_load_no_other_engine(mlp: Path, tmp_path: Path) -> None:
    """A host with PyTorch alone needs nothing else; numba is for the fast path only, which the profile turns off."""
    script = (
        "import sys, numpy, tailcut\n"
        "model = tailcut.Model.open(sys.argv[1])\n"
        "model.infer_sync({'x': numpy.zeros((2, 16), numpy.float32)})\n"
        "model.close()\n"
        "import tailcut.server.app, tailcut.cli.serve\n"
        "wrong = {name.partition('.')[0] for name in sys.modules} & {'onnx', 'onnxruntime', 'openvino', 'numba'}\n"
        "sys.exit(f'loaded: {wrong}' if wrong else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(mlp)], check=True, timeout=180)
    settings = msgspec.structs.replace(Settings(), io=msgspec.structs.replace(Settings().io, fast_path=False))
    Profile.of_model(mlp, settings).save(tmp_path / "mlp.profile.toml")
    x = rows(3, 16)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 16], "data": x.reshape(-1).tolist()}]}
    executed = {"PYTHONUTF8": "1"}  # what a process that has other engines starts has them, too
    with serving(tmp_path, tmp_path / "mlp.profile.toml", env=executed) as server, server.connect() as wire:
        maps = Path(f"/proc/{server.process.pid}/maps").read_text(
            encoding="utf-8", errors="replace"
        )  # JSON loads numba
        reply = wire.ask(json_request("mlp", body))
        assert reply.status == 200
        result = np.array(msgspec.json.decode(reply.body)["outputs"][0]["data"], np.float32).reshape(3, 4)
    assert np.allclose(result, answer(mlp, x), atol=1e-6)
    assert "libtorch_cpu" in maps
    assert not [name for name in ("onnxruntime", "openvino", "llvmlite") if name in maps]


def test_other_torch_files_are_named(tmp_path: Path) -> None:
    """A state dict is no program, and nothing of it is unpickled."""
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt2")
    with pytest.raises(ModelFileError, match=r"a PyTorch file, not an ONNX model: export it with torch\.export\.save"):
        open_engine(tmp_path / "weights.pt2", options())


def test_exported_programs_keep_constants_out_of_the_inputs(tmp_path: Path) -> None:
    """A number that was given when the program was exported stays what it was."""

    class Scale(torch.nn.Module):
        def forward(self, x: object, by: int) -> object:
            return x * by

    path = programs.save(tmp_path / "m.pt2", Scale(), (torch.ones(2, 3), 3), {"x": {0: programs.BATCH}, "by": None})
    program = read_program(path, options())
    assert program.spec.input_names == ("x",)
    engine = open_engine(path, options())
    assert np.array_equal(engine.run({"x": np.ones((2, 3), np.float32)})["output"], np.full((2, 3), 3, np.float32))


def test_programs_are_opened_by_several_threads(mlp: Path) -> None:
    """PyTorch can read only one program at a time, and does not report a concurrent read in another thread."""
    opened: list[int] = []

    def work() -> None:
        engine = open_engine(mlp, options())
        opened.append(engine.run({"x": rows(2, 16)})["output"].shape[0])
        engine.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [2] * 4


@pytest.mark.parametrize("changes", [{}, {"layout": "channels_last"}], ids=str)
def test_pixels_are_normalised_by_the_program(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Images come as uint8, and the answers are those of the floats that they stand for, a scale for each channel."""
    path = programs.images(tmp_path / "images.pt2")
    fold = U8Input(scale=(1 / 255, 1 / 200, 1 / 100), offset=(-0.5, -0.4, 0.1))
    engine = open_engine(path, EngineOptions(name="torch", threads=1, u8_input=fold, **changes))
    assert [str(tensor.dtype) for tensor in engine.spec.inputs] == ["UINT8"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    scale, offset = (np.array(values, np.float32).reshape(3, 1, 1) for values in (fold.scale, fold.offset))
    plain = open_engine(path, EngineOptions(name="torch", threads=1))
    wanted = plain.run({"x": pixels * scale + offset})["output"]
    assert np.allclose(engine.run({"x": pixels})["output"], wanted, atol=1e-4)
    ids = programs.encoder(tmp_path / "encoder.pt2")
    with pytest.raises(UnsupportedError, match="needs a model with a float32 or float16 input"):
        open_engine(ids, EngineOptions(name="torch", u8_input=fold))


OTHERS = ("numba", "llvmlite", "onnx", "onnxruntime", "openvino")


def test_a_server_of_programs_needs_nothing_else(mlp: Path, tmp_path: Path) -> None:
    """Neither the other engines nor numba: without it, one line says that the standard path serves, and it does."""
    hidden = without(tmp_path / "hidden", *OTHERS)
    x = np.ones((1, 16), np.float32)
    request = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": x.ravel().tolist()}]}
    with serving(tmp_path, mlp, env={"PYTHONPATH": hidden["PYTHONPATH"]}) as server:
        with server.connect() as wire:
            for _ in range(3):  # from the second one on, the fast path would have it
                (output,) = json.loads(wire.ask(json_request("mlp", request)).body)["outputs"]
                assert np.allclose(output["data"], answer(mlp, x)[0], atol=1e-5)
        warnings = [line for line in server.stderr.read_text().splitlines() if line.startswith("WARNING")]
    assert warnings == ["WARNING serving on the standard path: the fast path needs numba, which is not installed"]


def test_a_program_loads_nothing_else(mlp: Path) -> None:
    """Where everything is installed, `Model.open` imports PyTorch alone."""
    code = (
        "import sys, numpy, tailcut\n"
        "with tailcut.Model.open(sys.argv[1]) as model: model.infer_sync({'x': numpy.ones((1, 16), numpy.float32)})\n"
        f"print([name for name in {OTHERS} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mlp)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
