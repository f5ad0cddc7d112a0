"""The sizes that a program was exported for, in its engine, in `Model.open` and in a server."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs
from tests.servers import json_request, serving

from tailcut import Model
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.cuda.device import StandIn
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.errors import InvalidInputError, UnsupportedError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import Rows

torch = programs.torch
OPTIONS = EngineOptions(name="torch", threads=1)


def branching(path: Path) -> Path:
    """A program that PyTorch exports with one of its two branches alone."""
    shapes = {"x": {0: programs.BATCH, 1: torch.export.Dim("n", max=8)}}
    branch = programs.Function(lambda x: x.sum(1) if x.shape[1] <= 8 else x.mean(1))
    return programs.save(path, branch, (torch.randn(3, 4),), shapes)


def rows_up_to(path: Path, most: int, least: int = 0) -> Path:
    shapes = {"x": {0: torch.export.Dim("batch", min=least, max=most)}}
    return programs.save(path, programs.Function(lambda x: x * 2), (torch.randn(least + 2, 4),), shapes)


def ones(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.ones(shape, np.float32)}


def test_refuses_a_size_that_the_program_was_not_exported_for(tmp_path: Path) -> None:
    """Its answer would be that of a branch which the module does not take."""
    engine = open_engine(branching(tmp_path / "m.pt2"), OPTIONS)
    assert engine.run(ones(2, 8))["output"].tolist() == [8, 8]
    with pytest.raises(InvalidInputError, match=r"'x': axis 1 is 16, but the program was exported for at most 8"):
        engine.run(ones(2, 16))
    with pytest.raises(InvalidInputError, match="axis 1 is 16"):
        engine.bind(ones(2, 16), {"output": np.empty(2, np.float32)})
    with pytest.raises(UnsupportedError, match="exported for at most 8"):
        open_engine(branching(tmp_path / "n.pt2"), EngineOptions(name="torch", fixed_dims=("x:1=9",)))


def test_a_server_answers_400(tmp_path: Path) -> None:
    """In one line, which names the input and the sizes; others are served as before."""
    with serving(tmp_path, branching(tmp_path / "m.pt2")) as server, server.connect() as wire:
        for size, status, text in ((16, 400, "axis 1 is 16, but the program was exported for at most 8"), (8, 200, "")):
            entry = {"name": "x", "datatype": "FP32", "shape": [1, size], "data": [1.0] * size}
            answer = wire.ask(json_request("m", {"inputs": [entry]}))
            assert answer.status == status
            assert text in answer.body.decode()


def test_no_batch_has_more_rows_than_the_program_takes(tmp_path: Path) -> None:
    """A larger request is split, whatever the profile says; where rows stay together it is refused."""
    path = rows_up_to(tmp_path / "m.pt2", most=6)
    settings = Settings(engine=OPTIONS, batching=BatchingSettings(max_batch_size=32))
    for source in (path, Profile.of_model(path, settings)):
        with Model.open(source) as model:
            assert model.spec.batched
            assert model.entry.max_batch_size <= 6
            assert model.infer_sync(ones(20, 4))["output"].shape == (20, 4)
            assert max(model.batches_by_rows()) <= 6
    with Model.open(path, batching="off") as model, pytest.raises(InvalidInputError, match="axis 0 is 20"):
        model.infer_sync(ones(20, 4))


def test_rows_that_are_too_few_by_themselves_stay_together(tmp_path: Path) -> None:
    """A program for four rows or more has no answer to one, so requests are computed as they come."""
    engine = open_engine(rows_up_to(tmp_path / "m.pt2", most=16, least=4), OPTIONS)
    assert engine.spec.rows is Rows.DEPENDENT
    assert engine.run(ones(4, 4))["output"].shape == (4, 4)
    with pytest.raises(InvalidInputError, match="axis 0 is 3, but the program was exported for 4 to 16"):
        engine.run(ones(3, 4))


def test_axes_of_one_size_must_have_it(tmp_path: Path) -> None:
    """PyTorch would spread the shorter one, or fail; and a size that is a multiple has to be one."""
    engine = open_engine(programs.encoder(tmp_path / "m.pt2"), OPTIONS)
    ids, mask = np.ones((2, 8), np.int64), np.ones((2, 1), np.int64)
    with pytest.raises(InvalidInputError, match=r"'mask': axis 1 is 1, .* that of axis 1 of 'ids'"):
        engine.run({"ids": ids, "mask": mask})
    half: Any = torch.export.Dim("half", max=8)
    pairs = programs.Function(lambda x: x.reshape(x.shape[0], 2, -1).sum(1))
    shapes = {"x": {0: programs.BATCH, 1: 2 * half}}
    engine = open_engine(programs.save(tmp_path / "p.pt2", pairs, (torch.randn(3, 6),), shapes), OPTIONS)
    assert engine.run(ones(1, 16))["output"].shape == (1, 8)
    for wrong in (5, 18):
        with pytest.raises(InvalidInputError, match="at most 16, in steps of 2"):
            engine.run(ones(1, wrong))


def test_a_device_fills_batches_up_to_what_the_program_takes(tmp_path: Path) -> None:
    """A bucket of more rows than the program was exported for is cut."""
    engine = CudaEngine(rows_up_to(tmp_path / "m.pt2", most=6), OPTIONS, device=StandIn())
    assert engine.run(ones(5, 4))["output"].tolist() == np.full((5, 4), 2.0).tolist()
    assert [key.shapes for key in engine._memory] == [((6, 4),)]
    with pytest.raises(InvalidInputError, match="axis 0 is 7"):
        engine.run(ones(7, 4))
