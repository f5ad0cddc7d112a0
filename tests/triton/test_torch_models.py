"""PyTorch's files in a model repository: exported programs, and TorchScript where the repository is trusted."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tests.engines.pytorch import programs
from tests.servers import serving

from tailcut.engines.trust import _VARIABLE, trust
from tailcut.runtime.limits import Limits
from tailcut.triton.library import Library, Overrides

torch = programs.torch
CONFIG = """
platform: "{platform}"
max_batch_size: 8
input [ {{ name: "{x}" data_type: TYPE_FP32 dims: [ 8 ] }} ]
output [ {{ name: "{y}" data_type: TYPE_FP32 dims: [ 3 ] }} ]
dynamic_batching {{ }}
"""


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch") / "models"
    for name, backend in (("program", "pytorch"), ("script", "pytorch_libtorch")):
        (folder / name / "1").mkdir(parents=True)
        x, y = ("x", "output") if name == "program" else ("INPUT__0", "OUTPUT__0")
        (folder / name / "config.pbtxt").write_text(CONFIG.format(platform=backend, x=x, y=y))
    shapes = {"x": {0: programs.BATCH}}
    programs.save(folder / "program" / "1" / "model.pt2", Linear(), (torch.randn(2, 8),), shapes)
    torch.jit.script(Linear()).save(str(folder / "script" / "1" / "model.pt"))
    return folder


def ask(address: str, model: str, x: str, y: str) -> bool:
    data = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    tensor = triton.InferInput(x, [2, 8], "FP32")
    tensor.set_data_from_numpy(data)
    with triton.InferenceServerClient(address) as client:
        answer = client.infer(model, [tensor]).as_numpy(y)
    return np.allclose(answer, Linear()(torch.from_numpy(data)).detach().numpy(), atol=1e-5)


def test_both_kinds(repository: Path, tmp_path: Path) -> None:
    """With --trust, Triton's own client gets the answers of the modules; TorchScript has the names of Triton."""
    with serving(tmp_path, "--model-repository", repository, "--trust", "--no-auto") as server:
        assert ask(server.address, "program", "x", "output")
        assert ask(server.address, "script", "INPUT__0", "OUTPUT__0")


@pytest.mark.slow
def test_torchscript_without_trust(repository: Path, tmp_path: Path) -> None:
    """The program is served; the index says in one line why TorchScript is not."""
    with serving(tmp_path, "--model-repository", repository, "--no-auto") as server:
        assert ask(server.address, "program", "x", "output")
        with triton.InferenceServerClient(server.address) as client:
            states = {item["name"]: item for item in client.get_model_repository_index()}
    assert states["script"]["state"] == "UNAVAILABLE"
    assert "TorchScript can run any code" in states["script"]["reason"]


SWAPPED = """
platform: "pytorch_libtorch" max_batch_size: 8
input [ { name: "b" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "a" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "two" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "one" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { }
"""


class Named(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"one": a - b, "two": a * 2}


class Keyed(torch.nn.Module):
    def forward(self, both: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"one": both["a"] - both["b"], "two": both["a"] * 2}


@pytest.mark.parametrize("module", [Named, Keyed])
def test_torchscript_takes_tensors_by_name(tmp_path: Path, module: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order the configuration lists them."""
    monkeypatch.setenv(_VARIABLE, "")
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(SWAPPED)
    torch.jit.script(module()).save(str(tmp_path / "m" / "1" / "model.pt"))
    trust(tmp_path)
    [item] = Library(tmp_path, Overrides(Limits(), measures=False)).load("m", 1)
    with item.model as model:
        answer = model.infer_sync({"b": np.full((3, 1), 2, np.float32), "a": np.full((3, 1), 5, np.float32)})
        assert (answer["one"] == 3).all()
        assert (answer["two"] == 10).all()


SAME = """
platform: "pytorch" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 4 ] reshape { shape: [ 8 ] } } ]
output [ { name: "x" data_type: TYPE_FP32 dims: [ 8 ] } ]
"""
TWICE = """
platform: "ensemble" max_batch_size: 8
input [ { name: "given" data_type: TYPE_FP32 dims: [ 2, 4 ] } ]
output [ { name: "doubled" data_type: TYPE_FP32 dims: [ 8 ] } ]
ensemble_scheduling { step [
  { model_name: "same" input_map { key: "x" value: "given" } output_map { key: "x" value: "doubled" } }
] }
"""


class Doubled(torch.nn.Module):
    """An input and an output of one name."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x * 2}


def test_an_input_and_an_output_of_one_name(tmp_path: Path) -> None:
    """Each has its own reshape, and its own name in an ensemble."""
    for name, text in (("same", SAME), ("twice", TWICE)):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    programs.save(tmp_path / "same" / "1" / "model.pt2", Doubled(), (torch.randn(2, 8),), {"x": {0: programs.BATCH}})
    library = Library(tmp_path, Overrides(Limits(), measures=False))
    data = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    for name, given, gives in (("same", "x", "x"), ("twice", "given", "doubled")):
        [item] = library.load(name, 1)
        with item.model as model:
            assert np.array_equal(model.infer_sync({given: data})[gives], 2 * data.reshape(3, 8))
