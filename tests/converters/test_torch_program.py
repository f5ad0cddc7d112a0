"""Converting programs that `torch.export` made; runs where torch and onnxscript are installed."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UnsupportedError


class Bomb:
    """Its pickle writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def exported(torch: Any, path: Path) -> Any:
    """A small program whose batch is free, and its file."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
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
