"""How long calls of a stage may take, each by itself where there is one for each request, and what ends them."""

import asyncio
import logging
import time

import pytest

from tailcut import Model
from tailcut.errors import DeadlineExceededError
from tests.pipelines.test_faults import PIPELINE, STAGE, wait_for, written
from tests.pipelines.test_loading import HEAD

FREE = STAGE.replace('"y": "FP32"', '"y": "FP32[-1]"')
SLOW = "time.sleep(float(x[0]))\n    return x[:, None]"


def slow(stage, timeout_s, *, threads):
    """A stage whose function takes as many seconds as its input says."""
    body = stage.replace("@stage(", f"@stage(timeout_s={timeout_s}, threads={threads}, ")
    return HEAD, body.replace("return x", SLOW), PIPELINE


def ask(model, seconds):
    """Whether each request is answered; all of them are queued while another is computed, and so are one batch."""

    async def answers():
        before = asyncio.create_task(model.infer({"x": [0.2]}))
        while not model.stages()["f"]["computing"]:  # noqa: ASYNC110  a stage tells nobody
            await asyncio.sleep(0.001)
        batch = [model.infer({"x": [value]}) for value in seconds]
        results = await asyncio.gather(*batch, return_exceptions=True)
        await before
        return results

    return [not isinstance(answer, DeadlineExceededError) for answer in asyncio.run(answers())]


@pytest.mark.parametrize("threads", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_call_of_a_batch_has_its_own_time(tmp_path, threads):
    """All of them take longer together."""
    with Model.open(written(tmp_path, *slow(FREE, 1.0, threads=threads))) as model:
        assert all(ask(model, [0.1] * 14))
        assert sorted(model.entry.stage_batches()["f"]) == [1, 14]


@pytest.mark.parametrize("threads", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_call_that_hangs_behind_others_is_ended(tmp_path, threads):
    """At its own time, and not at that of all calls together."""
    with Model.open(written(tmp_path, *slow(FREE, 0.4, threads=threads))) as model:
        began = time.monotonic()
        assert not any(ask(model, [0.1] * 6 + [1.0 if threads else 60.0]))
        assert time.monotonic() - began < 10
        assert model.statistics()["hung"] == 1


@pytest.mark.parametrize("threads", [False, True])
def test_a_call_that_hangs_is_counted_and_logged(tmp_path, caplog, threads):
    """With the stage's name and its time; for an alert, wherever it ran."""
    stage = STAGE.replace('"y": "FP32"', '"y": "FP32[1]"')
    with (
        caplog.at_level(logging.ERROR, "tailcut"),
        Model.open(written(tmp_path, *slow(stage, 0.2, threads=threads))) as model,
    ):
        with pytest.raises(DeadlineExceededError, match=r"^stage 'f' did not answer within 0\.2 s: "):
            model.infer_sync({"x": [1.0]})
        counts = model.statistics()
        assert (counts["hung"], counts["failed"]) == (1, 1)
        end = " (rows: 1): replacing its worker" if threads else ": its process was killed"
        wait_for(lambda: f"stage 'f' did not answer within 0.2 s{end}" in caplog.text)
