"""Programs with operators that PyTorch does not register by itself: the library that does is imported, or named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
# What a library of that name does when it is imported.
LIBRARY = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("twice(Tensor x) -> Tensor")
library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
"""
EXPORT = """
import torch, torchvision, torch.ao.quantization.fx._decomposed
class Twice(torch.nn.Module):
    def forward(self, x):
        return torch.ops.torchvision.twice(x)
class Rounded(torch.nn.Module):
    def forward(self, x):
        whole = torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.5, 0, -128, 127, torch.int8)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(whole, 0.5, 0, -128, 127, torch.int8)
for name, module in (("twice", Twice()), ("rounded", Rounded())):
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=shapes), f"{name}.pt2")
"""
OPEN = """
import sys
from pathlib import Path
import numpy as np
from tailcut.engines import EngineOptions, open_engine
for name in sys.argv[1:]:
    engine = open_engine(Path(name), EngineOptions(name="torch", threads=1))
    [answer] = engine.run({"x": np.full((1, 3), 0.7, np.float32)}).values()
    print(name, answer[0, 0].round(3))
"""


def python(folder: Path, code: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it in a new process, which has registered nothing yet."""
    inherited = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), *inherited])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_what_registers_operators_is_imported(tmp_path: Path) -> None:
    """Without the library, one line says which one the program needs."""
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LIBRARY)
    exported = python(tmp_path, EXPORT, path=package.parent)
    assert exported.returncode == 0, exported.stderr
    answered = python(tmp_path, OPEN, "twice.pt2", "rounded.pt2", path=package.parent)
    assert answered.stdout.splitlines() == ["twice.pt2 1.4", "rounded.pt2 0.5"], answered.stderr
    refused = python(tmp_path, OPEN, "twice.pt2")
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert "twice.pt2: the program has operators of torchvision, which no installed package registers" in last
    assert last.endswith(": pip install torchvision")
