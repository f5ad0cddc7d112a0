"""All steps of a pipeline in one process compute what each computes by itself."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest

from tailcut import Model, Pipeline
from tailcut.errors import BatchLostError, EngineError, InvalidInputError, UsageError
from tailcut.pipelines.process import StageTimeoutError
from tests.cases import CASES, check_same
from tests.pipelines import samples
from tests.pipelines.test_loading import HEAD

CHAINED = """
chained = Pipeline("texts", [tokenize, "twice.onnx", add_up], processes=2)
ranked = Pipeline("ranked", [order], processes=1)
"""


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chained")
    (folder / "samples.py").write_text(Path(samples.__file__).read_text() + CHAINED)
    samples.write_model(folder / "twice.onnx")
    return folder


@pytest.fixture(scope="module")
def texts(chained: Path):
    with Model.open(f"{chained}/samples.py:chained") as model:
        yield model


def asked(model: Model, requests: list[dict[str, np.ndarray]]) -> list[object]:
    """The answers to requests that are sent at once, or their errors."""

    async def answers() -> list[object]:
        return await asyncio.gather(*(model.infer(request) for request in requests), return_exceptions=True)

    return asyncio.run(answers())


def words(*items: bytes) -> dict[str, np.ndarray]:
    return {"text": np.array(items, object)}


def test_answers_are_those_of_the_steps(texts: Model) -> None:
    """Requests of one to five texts of all lengths, many at once, in two processes."""
    random = np.random.default_rng(0)
    requests = [
        [random.integers(97, 123, random.integers(1, 20)).astype(np.uint8).tobytes() for _ in range(1 + number % 5)]
        for number in range(120)
    ]
    for request, answer in zip(requests, asked(texts, [words(*request) for request in requests]), strict=True):
        assert answer["sum"].tolist() == [samples.truth(text) for text in request]
        assert answer["echo"].tolist() == [text[::-1] for text in request]
    ((step, counts),) = texts.stages().items()
    assert step == "tokenize+twice+add_up"
    assert counts["batches"] < counts["requests"] == texts.statistics()["requests"]
    assert texts.statistics()["rows"] == sum(map(len, requests))


def test_more_rows_than_a_call_may_have(texts: Model) -> None:
    """Each step divides them itself."""
    many = [b"x" * (1 + number % 7) for number in range(500)]
    (answer,) = asked(texts, [words(*many)])
    assert answer["sum"].tolist() == [samples.truth(text) for text in many]


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        (b"refuse", InvalidInputError, "stage 'tokenize': this word is refused"),
        (b"value", InvalidInputError, "stage 'tokenize' refused the input: ValueError"),
        (b"break", EngineError, "stage 'tokenize' failed: ZeroDivisionError"),
        (b"leave", EngineError, "stage 'tokenize' failed: SystemExit"),
    ],
)
def test_an_error_costs_its_own_request(texts: Model, word: bytes, error: type[Exception], message: str) -> None:
    """It names the step that raised it."""
    first, failed, last = asked(texts, [words(b"good"), words(word), words(b"ok")])
    assert (first["sum"].tolist(), last["sum"].tolist()) == ([samples.truth(b"good")], [samples.truth(b"ok")])
    assert type(failed) is error
    assert str(failed) == message


def test_a_process_that_dies_or_hangs_is_replaced(texts: Model) -> None:
    """Its batch is lost."""
    (lost,) = asked(texts, [words(b"crash")])
    assert isinstance(lost, BatchLostError)
    assert "exit code 7" in str(lost)
    (late,) = asked(texts, [words(b"hang")])
    assert isinstance(late, StageTimeoutError)
    for _ in range(4):
        (answer,) = asked(texts, [words(b"again")])
        assert answer["sum"].tolist() == [samples.truth(b"again")]


def test_requests_whose_rows_belong_together_stay_whole(chained: Path) -> None:
    """Several in one batch, each ranked by itself."""
    with Model.open(f"{chained}/samples.py:ranked") as model:
        assert model.rows.rows.value == "dependent"
        scores = [np.arange(size, dtype=np.float32)[::-1].copy() for size in range(1, 12)]
        for score, answer in zip(scores, asked(model, [{"score": score} for score in scores]), strict=True):
            assert answer["rank"].tolist() == list(range(len(score)))
            assert answer["share"].sum() == pytest.approx(1.0)


KEEPS = """
import numpy as np
from tailcut import Pipeline, stage

OUT = np.empty((8, 3), np.float32)


@stage(inputs={"x": "FP32[3]"}, outputs={"y": "FP32[3]"}, max_batch_size=8)
def first(x):
    OUT[: len(x)] = x
    x[:] = 0  # of this process: later steps have their own
    return OUT[: len(x)]


@stage(inputs={"x": "FP32[3]", "y": "FP32[3]"}, outputs={"z": "FP32[3]"}, threads=True, max_batch_size=4)
def second(x, y):
    return x + y


@stage(inputs={"z": "FP32[-1]"}, outputs={"sum": "FP32"}, whole_requests=True)
def third(z):
    return np.full(len(z), z.sum(), np.float32)


pipeline = Pipeline("p", [first, second, third], processes=1)
"""


def test_functions_may_keep_results_and_write_to_their_inputs(tmp_path: Path) -> None:
    """No step sees what another one does to its arrays, in this batch or the next."""
    (tmp_path / "p.py").write_text(KEEPS)
    with Model.open(f"{tmp_path}/p.py:pipeline") as model:
        inputs = [np.full((1 + number % 11, 3), number, np.float32) for number in range(40)]
        for x, answer in zip(inputs, asked(model, [{"x": x} for x in inputs]), strict=True):
            assert answer["sum"].tolist() == [2 * x.sum()] * len(x)


def test_a_step_that_does_not_get_what_it_declares_is_no_fault_of_the_client(tmp_path: Path) -> None:
    """A free size that does not fit is found when it is there."""
    stages = [
        '@stage(inputs={"x": "FP32"}, outputs={"y": "FP32[-1]"})\ndef f(x):\n    return x[:, None].repeat(2, 1)\n\n\n',
        '@stage(inputs={"y": "FP32[3]"}, outputs={"z": "FP32"})\ndef g(y):\n    return y[:, 0]\n\n\n',
    ]
    (tmp_path / "p.py").write_text(HEAD + "".join(stages) + "pipeline = Pipeline('p', [f, g], processes=1)\n")
    with (
        Model.open(f"{tmp_path}/p.py:pipeline") as model,
        pytest.raises(EngineError, match=r"stage 'g' received input that it does not accept: input 'y': expected"),
    ):
        model.infer_sync({"x": [1.0]})


FILLED = """
import numpy as np
from tailcut import Pipeline, stage


@stage(inputs={"text": "BYTES"}, outputs={"ids": "INT64[-1]", "length": "INT64"}, fill={"ids": 0}, max_batch_size=5)
def encode(text):
    return [list(item) for item in text], [len(item) for item in text]


@stage(inputs={"more": "INT64[-1]", "length": "INT64"}, outputs={"sum": "INT64"}, max_batch_size=3, threads=True)
def add(more, length):
    return np.array([row[:count].sum() for row, count in zip(more, length)])


pipeline = Pipeline("p", [encode, "twice.onnx", add], processes=1)
"""


def test_requests_of_other_shapes_are_computed_apart(chained: Path) -> None:
    """Texts of all lengths are filled up in their own request alone, and share calls with their like."""
    (chained / "filled.py").write_text(FILLED)
    with Model.open(f"{chained}/filled.py:pipeline") as model:
        random = np.random.default_rng(1)
        requests = [
            [random.integers(97, 123, random.integers(1, 4)).astype(np.uint8).tobytes() for _ in range(1 + number % 3)]
            for number in range(100)
        ]
        for request, answer in zip(requests, asked(model, [words(*request) for request in requests]), strict=True):
            assert answer["sum"].tolist() == [samples.truth(text) for text in request]
        assert max(model.entry.stage_batches()["encode+twice+add"]) > 2


QUICK = {"towers", "matched", "softmax_over_rows", "found", "labels", "sentences"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_each_request_has_the_answer_that_it_has_alone(tmp_path: Path, name: str) -> None:
    """Of models whose rows are independent or not, with rows of their own for each input, or any number of them."""
    made = CASES[name]
    onnx.save(made.model, tmp_path / "m.onnx")
    (tmp_path / "p.py").write_text("from tailcut import Pipeline\npipeline = Pipeline('p', ['m.onnx'], processes=1)\n")
    with Model.open(f"{tmp_path}/p.py:pipeline") as model:
        for answer, truth in zip(asked(model, made.requests * 5), made.truths() * 5, strict=True):
            if truth is None:
                assert isinstance(answer, EngineError)
            else:
                check_same(answer, truth)


SLOW = """
import time
from tailcut import Pipeline, stage


@stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, whole_requests=True, timeout_s=1.0)
def f(x):
    time.sleep(float(x[0]))
    return x


pipeline = Pipeline("p", [f], processes=1)
"""


def test_each_call_has_its_own_time_limit(tmp_path: Path) -> None:
    """Twelve calls of one batch take longer together; a single one may not."""
    (tmp_path / "p.py").write_text(SLOW)
    with Model.open(f"{tmp_path}/p.py:pipeline") as model:
        seconds = [{"x": np.array([0.2], np.float32)}] * 13
        assert [answer["y"][0] for answer in asked(model, seconds)] == [np.float32(0.2)] * 13
        assert max(model.entry.stage_batches()["f"]) > 6
        (late,) = asked(model, [{"x": np.array([30.0], np.float32)}])
        assert isinstance(late, StageTimeoutError)


@pytest.mark.parametrize("processes", [-1, 257, True, 1.0, "2"])
def test_processes_are_a_number(processes: object) -> None:
    """The message says what 0 means."""
    with pytest.raises(UsageError, match=r"processes is .*, must be 0 \(each step runs by itself\) to 256"):
        Pipeline("p", [samples.where], processes=processes)  # type: ignore[arg-type]
