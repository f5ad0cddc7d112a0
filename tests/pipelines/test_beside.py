"""Stages whose answers depend on the requests beside them: seen in the first batches, and asked one by one then."""

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest

from tailcut import Model
from tailcut.errors import InvalidInputError
from tailcut.pipelines.beside import BesideWatch

PARTS = [[np.full((1, 3), value, np.float32)] for value in (1.0, 5.0, 2.0, 9.0)]
FILE = """
import numpy as np
from tailcut import Pipeline, stage

@stage(inputs={"x": "FP32[3]"}, outputs={"y": "FP32[3]"})
def centred(x):
    return x - x.mean(axis=0)

@stage(inputs={"x": "FP32[3]"}, outputs={"y": "FP32[3]"}, threads=True)
def centred_here(x):
    return x - x.mean(axis=0)

@stage(inputs={"text": "BYTES"}, outputs={"ids": "INT64[-1]"})
def padded(text):
    longest = max(map(len, text))
    return np.array([list(item.ljust(longest, b"_")) for item in text])

processes = Pipeline("processes", [centred])
threads = Pipeline("threads", [centred_here])
longest = Pipeline("longest", [padded])
"""


def mean(parts):
    together = np.concatenate([arrays[0] for arrays in parts])
    return [[arrays[0] - together.mean(axis=0)] for arrays in parts]


def twice(parts):
    return [[2 * arrays[0]] for arrays in parts]


def test_a_stage_that_mixes_answers_each_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    """From the first batch on, which is not answered before; one line says what to write."""
    watch = BesideWatch("centred", mean)
    with caplog.at_level(logging.WARNING, logger="tailcut"):
        for _ in range(3):
            assert [answer[0].tolist() for answer in watch.answers(PARTS)] == [[[0.0] * 3]] * 4
    assert watch.mixes
    lines = [record.getMessage() for record in caplog.records if "'centred'" in record.getMessage()]
    assert len(lines) == 1
    assert "depends on the requests beside it, so it gets one at a time from now on: write @stage(whole_req" in lines[0]


def test_rows_that_are_apart_are_asked_together() -> None:
    """And compared in a few batches only."""
    calls: list[int] = []

    def counted(parts):
        calls.append(len(parts))
        return twice(parts)

    watch = BesideWatch("twice", counted)
    for _ in range(6):
        assert [answer[0][0, 0] for answer in watch.answers(PARTS)] == [2.0, 10.0, 4.0, 18.0]
    assert calls == [4, 1, 1] * 3 + [4] * 3
    assert not watch.mixes


def test_what_is_random_or_refused_alone_is_not_judged() -> None:
    """Such answers say nothing about the rows."""
    numbers = np.random.default_rng(0)

    def noise(parts):
        return [[numbers.standard_normal((1, 3))] for _ in parts]

    def pairs(parts):
        if len(parts) < 2:
            raise InvalidInputError("in pairs only")
        return mean(parts)

    for call in (noise, pairs):
        watch = BesideWatch("stage", call)
        for _ in range(4):
            assert len(watch.answers(PARTS)) == 4
        assert not watch.mixes


@pytest.mark.parametrize("variable", ["processes", "threads"])
def test_concurrent_requests_are_right_without_a_declaration(tmp_path: Path, variable: str) -> None:
    """A mean over the batch, which nothing in the file declares."""
    (tmp_path / "mixing.py").write_text(FILE)
    with Model.open(f"{tmp_path}/mixing.py:{variable}") as model:

        async def ask():
            rows = [np.full((number % 3 + 1, 3), number, np.float32) for number in range(60)]
            for row in rows:
                row[-1] += 1
            return rows, await asyncio.gather(*[model.infer({"x": row}) for row in rows])

        for row, answer in zip(*asyncio.run(ask()), strict=True):
            assert np.allclose(answer["y"], row - row.mean(axis=0))


def test_texts_that_are_padded_to_the_longest_of_a_batch(tmp_path: Path) -> None:
    """Each has the length that it has alone."""
    (tmp_path / "mixing.py").write_text(FILE)
    with Model.open(f"{tmp_path}/mixing.py:longest") as model:

        async def ask():
            texts = [b"x" * (1 + number % 7) for number in range(40)]
            return texts, await asyncio.gather(*[model.infer({"text": [text]}) for text in texts])

        for text, answer in zip(*asyncio.run(ask()), strict=True):
            assert answer["ids"].tolist() == [list(text)]
