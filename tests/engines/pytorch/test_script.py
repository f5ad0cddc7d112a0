"""TorchScript: only from files that are trusted, with the signature that the settings declare."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.trust import _VARIABLE, trust
from tailcut.errors import EngineError, ReleasedError, UnsupportedError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import Rows

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
    """Bound and run, for any number of rows; nothing is known of the rows."""
    path = saved(tmp_path / "two.pt", Two())
    assert kind_of(path) is FileKind.SCRIPT
    trust(path)
    engine = open_engine(path, options())
    assert engine.spec.rows is Rows.UNKNOWN
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
        found = engine.run({"x": x})
        assert np.allclose(found["total"], 2 * x)
        assert np.allclose(found["mean"], x.mean(1, keepdims=True))
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)
    one = np.ones((1, 4), np.float32)
    total, mean = np.zeros((1, 4), np.float32), np.zeros((1, 1), np.float32)
    engine.bind({"x": one}, {"total": total, "mean": mean})()
    assert (total == 2).all()
    engine.close()
    with pytest.raises(ReleasedError):
        engine.run({"x": one})


def test_it_is_not_loaded_without_trust(tmp_path: Path) -> None:
    """The line says what to do; a folder that is trusted has all of its files trusted."""
    path = saved(tmp_path / "two.pt", Two())
    with pytest.raises(UnsupportedError, match=r"TorchScript is code of its own: .*\(--trust\)"):
        open_engine(path, options())
    trust(tmp_path)
    open_engine(path, options()).close()


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ((), "does not say its inputs and outputs"),
        (("input x FP32 [-1, 4]",), "does not say its inputs and outputs"),
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
        (("input x FP32 [-1, 4]", "input z FP32 [-1, 4]", *SIGNATURE[1:]), "PyTorch failed"),
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


def test_batches_are_the_users_word(tmp_path: Path) -> None:
    """A model shares calls where the profile says that its rows are independent; the profile carries the signature."""
    path = saved(tmp_path / "two.pt", Two())
    trust(path)
    settings = Settings(engine=options(), batching=BatchingSettings(rows="independent"))
    Profile.of_model(path, settings).save(tmp_path / "two.profile.toml")
    with Model.open(tmp_path / "two.profile.toml") as model:
        assert model.spec.batched
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        assert np.allclose(model.infer_sync({"x": x})["total"], 2 * x)
