"""Converting programs that `torch.export` made; runs where torch and onnxscript are installed."""

from pathlib import Path

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_becomes_onnx(tmp_path: Path) -> None:
    """With a batch of free size."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (torch.ones(2, 4),), dynamic_shapes=shapes), tmp_path / "m.pt2")
    assert convert(tmp_path / "m.pt2", tmp_path / "m.onnx").right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    [answer] = engine.run({engine.spec.inputs[0].name: rows}).values()
    assert np.allclose(answer, model(torch.from_numpy(rows)).detach().numpy(), atol=1e-5)
    engine.close()
