"""Converting programs that `torch.export` made; runs where torch and onnxscript are installed."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import ModelFileError, UnsupportedError


class Bomb:
    """Its pickle writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def exported(torch: Any, path: Path, width: int = 8) -> Any:
    """A small program whose batch is free, and its file."""
    model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (torch.ones(2, 4),), dynamic_shapes=shapes), path)
    return model


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_becomes_onnx(tmp_path: Path) -> None:
    """With a batch of free size."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    model = exported(torch, tmp_path / "m.pt2")
    assert convert(tmp_path / "m.pt2", tmp_path / "m.onnx").right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    [answer] = engine.run({engine.spec.inputs[0].name: rows}).values()
    assert np.allclose(answer, model(torch.from_numpy(rows)).detach().numpy(), atol=1e-5)
    engine.close()


@pytest.mark.filterwarnings("ignore")
def test_large_programs_in_one_folder_keep_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lie in files that are named after the models."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 0)
    models = {name: exported(torch, tmp_path / f"{name}.pt2", 256) for name in ("a", "b")}
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    for name in models:
        assert convert(tmp_path / f"{name}.pt2", tmp_path / f"{name}.onnx").right
    for name, model in models.items():
        engine = open_engine(tmp_path / f"{name}.onnx", EngineOptions(threads=1))
        [answer] = engine.run({engine.spec.inputs[0].name: rows}).values()
        assert np.allclose(answer, model(torch.from_numpy(rows)).detach().numpy(), atol=1e-5)
        engine.close()
    files = [f"{name}.{end}" for name in models for end in ("onnx", "onnx.data", "pt2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def forward(torch: Any, kind: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A function with the arguments and the keyword arguments that it is exported with."""
    item, two = torch.arange(12.0).reshape(3, 4), torch.ones(3, 4)
    return {
        "keywords": (lambda x, *, y: x - 2 * y, (item,), {"y": two}),
        "other order": (lambda x, y: x - 2 * y, (), {"y": two, "x": item}),
        "a default": (lambda x, mask=None, y=None: x - 2 * y, (item, None, two), {}),
        "a number": (lambda x, times: x * times, (item, 3), {}),
        "a dict": (lambda both: both["b"] - 2 * both["a"], ({"b": item, "a": two},), {}),
        "bfloat16 in": (lambda x: x.float() * 2, (item.bfloat16(),), {}),
        "bfloat16 out": (lambda x: x.bfloat16(), (item,), {}),
        "no tensors out": (lambda x: (x * 2, None, 3, x + 1), (item,), {}),
        "an output called as an input": (lambda x: {"x": x + 1, "y": x * 2}, (item,), {}),
    }[kind]


FORMS = [
    "keywords",
    "other order",
    "a default",
    "a number",
    "a dict",
    "bfloat16 in",
    "bfloat16 out",
    "no tensors out",
    "an output called as an input",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMS)
def test_inputs_and_outputs_of_any_form(tmp_path: Path, kind: str) -> None:
    """Of whatever form the engine serves, in the same order; outputs that are no tensors are left out."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    function, arguments, named = forward(torch, kind)
    module = torch.nn.Module()
    module.forward = function
    torch.export.save(torch.export.export(module, arguments, named), tmp_path / "m.pt2")
    assert convert(tmp_path / "m.pt2", tmp_path / "m.onnx").right
    theirs = open_engine(tmp_path / "m.pt2", EngineOptions(name="torch", threads=1))
    mine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    assert mine.spec.inputs == theirs.spec.inputs
    request = {item.name: np.full(item.shape, 7).astype(item.dtype.numpy) for item in mine.spec.inputs}
    for own, other in zip(mine.run(request).values(), theirs.run(request).values(), strict=True):
        assert np.array_equal(own, other)
    mine.close()
    theirs.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: x * 2,
            "its ONNX model is not written: onnxruntime cannot load it: Could not find",
        ),
        (
            lambda x: x.float().sort().values,
            "the original cannot compute the request that the ONNX model answers: broken",
        ),
    ],
)
def test_what_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, words: str) -> None:
    """With the file that was to be converted; a tune then leaves the copy out. The second program fails by itself."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tailcut.engines.torch import passes

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    module = torch.nn.Module()
    module.forward = function
    torch.export.save(torch.export.export(module, (torch.ones(3, 4).bfloat16(),)), tmp_path / "m.pt2")
    monkeypatch.setattr(passes, "flat", lambda *_: broken)
    with pytest.raises(UnsupportedError) as caught:
        convert(tmp_path / "m.pt2", tmp_path / "m.onnx")
    assert str(caught.value).startswith(f"{tmp_path / 'm.pt2'}: {words}")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.filterwarnings("ignore")
def test_nothing_in_a_program_is_unpickled(tmp_path: Path) -> None:
    """PyTorch by itself would run the code of a pickle in the file's example inputs."""
    torch = pytest.importorskip("torch")
    exported(torch, tmp_path / "good.pt2")
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, bomb.getvalue() if "sample_inputs" in name else good.read(name))
    with pytest.raises(UnsupportedError, match="its example inputs are not plain tensors"):
        convert(tmp_path / "bad.pt2", tmp_path / "m.onnx")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_what_may_run_code_is_converted_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is known by its content, whatever its name is, and trusted like one that is served."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("TAILCUT_TRUSTED_FILES", "")
    exported(torch, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "noted.pt", "w") as noted:
        for name in good.namelist():
            noted.writestr(name, good.read(name))
        noted.writestr(f"{good.namelist()[0].partition('/')[0]}/data/notes/note", b"x")
    assert convert(tmp_path / "good.pt", tmp_path / "good.onnx").right
    with pytest.raises(UnsupportedError, match="the file 'data/notes/note'"):
        convert(tmp_path / "noted.pt", tmp_path / "noted.onnx")
    assert convert(tmp_path / "noted.pt", tmp_path / "noted.onnx", trust=True).right


def test_torchscript_is_not_converted(tmp_path: Path) -> None:
    """Whatever it is called, the error says what it is."""
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="a TorchScript model cannot be converted"):
        convert(tmp_path / "m.pt", tmp_path / "m.onnx", trust=True)
