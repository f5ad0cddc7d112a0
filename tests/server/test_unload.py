"""A model that goes answers its requests in progress first, whether they lie in rows or in arrays of their own."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import endless

from tailcut.engines.base import EngineOptions
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel

ROUNDS = 1 << 18  # about half a second


@pytest.mark.parametrize("rows", ["independent", "dependent"])
def test_what_computes_is_answered_before_a_model_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    """However long that takes: the engine is not told to give up meanwhile."""
    monkeypatch.setattr("tailcut.runtime.worker_pool._PATIENCE_S", 0.05)
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=4, rows=rows))  # type: ignore[arg-type]
    model = Model.open(Profile.of_model(endless(tmp_path / "endless.onnx"), settings))

    async def run() -> np.ndarray:
        repository = ModelRepository([ServedModel(model, "endless")], control=True)
        inputs = {"x": np.full((1, 4), 7, np.float32), "rounds": [[ROUNDS]]}
        answer = asyncio.create_task(model.infer(inputs))
        while not model.statistics()["computing"]:  # noqa: ASYNC110  a worker that begins tells nobody
            await asyncio.sleep(0)
        await repository.unload("endless")
        return (await answer)["y"]

    assert (asyncio.run(run()) == 7).all()
