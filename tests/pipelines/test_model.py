"""A pipeline in a program: right answers together and alone, and faults that cost only their own requests."""

import asyncio
import gc
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tailcut import Model, Pipeline, stage
from tailcut.engines.trust import is_trusted
from tailcut.errors import (
    BatchLostError,
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    ReleasedError,
    UsageError,
)
from tailcut.pipelines.flow import Flow
from tailcut.pipelines.steps import StepOptions
from tailcut.runtime.opening.defaults import ServingPlace
from tailcut.runtime.opening.measured import BUDGET_S
from tailcut.runtime.profile import Profile
from tailcut.runtime.rows import SETTING_OF
from tailcut.spec import Rows
from tests.engines.models import perceptron
from tests.forked import fork, succeeded
from tests.pipelines.samples import CPU, truth

WORDS = [b"a", b"bb", "c\u00e9".encode(), b"dddddddd", b"\xff\xfe\x00", b"", b"g" * 300]


@pytest.fixture(scope="module")
def texts(folder):
    with Model.open(f"{folder}/samples.py:pipeline") as model:
        yield model


@pytest.fixture(scope="module")
def numbers(folder):
    with Model.open(f"{folder}/samples.py:numbers") as model:
        yield model


def row(value):
    return {"x": np.full((1, 4), value, np.float32)}


def test_rows_of_one_request(texts):
    """Of different lengths, with bytes that are no text."""
    answer = texts.infer_sync({"text": WORDS})
    assert answer["sum"].tolist() == [truth(word) for word in WORDS]
    assert answer["echo"].tolist() == [word[::-1] for word in WORDS]


def test_an_answered_request_is_freed_at_once(texts):
    """With its arrays, which may be large: no cycle keeps them until the next collection of garbage."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            texts.infer_sync({"text": [b"a"]})
        gc.collect()
        assert [item for item in gc.garbage if isinstance(item, Flow)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_requests_together_answer_as_alone(texts):
    """Of different lengths and numbers of rows, all at once; one of them is refused."""

    async def ask():
        asked = [[WORDS[(i + j) % len(WORDS)] for j in range(i % 4 + 1)] for i in range(60)]
        asked[30] = [b"refuse"]
        answers = await asyncio.gather(*[texts.infer({"text": words}) for words in asked], return_exceptions=True)
        return zip(asked, answers, strict=True)

    for words, answer in asyncio.run(ask()):
        if words == [b"refuse"]:
            assert isinstance(answer, InvalidInputError)
            assert str(answer) == "stage 'tokenize': this word is refused"
        else:
            assert answer["sum"].tolist() == [truth(word) for word in words]


def test_many_rows_pass_every_step(texts):
    """More than any batch holds."""
    words = [b"%d" % number for number in range(300)]
    assert texts.infer_sync({"text": words})["sum"].tolist() == [truth(word) for word in words]


@pytest.mark.parametrize(
    ("word", "kind", "message"),
    [
        (b"value", InvalidInputError, "stage 'tokenize' refused the input: ValueError"),
        (b"break", EngineError, "stage 'tokenize' failed: ZeroDivisionError"),
        (b"leave", EngineError, "stage 'tokenize' failed: SystemExit"),
        (b"crash", BatchLostError, "its process exited during a call .exit code 7."),
        (b"hang", DeadlineExceededError, "did not answer within 1.5 s: its process was killed"),
    ],
)
def test_a_fault_is_reported_and_the_next_request_answered(texts, word, kind, message):
    """No message has the exception's own text, which may show a request."""
    with pytest.raises(kind, match=message) as caught:
        texts.infer_sync({"text": [word]})
    assert "secret" not in str(caught.value)
    assert texts.infer_sync({"text": [b"after"]})["sum"].tolist() == [truth(b"after")]


def test_a_batch_with_a_guilty_request_is_computed_again_one_by_one(numbers):
    """Only the guilty one fails; the others are rows of one call before it."""

    async def ask():
        values = [13 if value == 20 else value for value in range(40)]
        return values, await asyncio.gather(*[numbers.infer(row(value)) for value in values], return_exceptions=True)

    values, answers = asyncio.run(ask())
    for value, answer in zip(values, answers, strict=True):
        if value == 13:
            assert isinstance(answer, InvalidInputError)
        else:
            assert answer["y"].tolist() == [[value * 2] * 4]


def test_requests_share_calls_up_to_the_largest_batch(numbers):
    """While one call runs, the next one's rows gather."""

    async def ask():
        return await asyncio.gather(*[numbers.infer(row(0)) for _ in range(64)])

    sizes = {int(answer["rows"][0]) for answer in asyncio.run(ask())}
    assert max(sizes) > 1
    assert max(sizes) <= 8


def test_a_pipeline_is_opened_by_its_path():
    """Its processes import it by that; the object itself is refused with what to write instead."""
    item = stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, name="one")(lambda x: x)
    with pytest.raises(UsageError, match="not a Pipeline: a pipeline is opened by the path of its file"):
        Model.open(Pipeline("p", [item]))


def test_a_killed_process_is_replaced(numbers):
    """Without a request in its hands, no request fails."""
    before = numbers.stages()["where"]["restarts"]
    first = int(numbers.infer_sync(row(1))["pid"][0])
    os.kill(first, signal.SIGKILL)
    looks = threading.Event()
    while numbers.stages()["where"]["restarts"] == before:
        looks.wait(0.01)
    assert int(numbers.infer_sync(row(1))["pid"][0]) != first


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux whether a process has ended")
def test_a_process_that_ended_between_two_calls_costs_no_request(numbers):
    """The next request is not lost with it, although nobody has missed the process yet."""
    pid = int(numbers.infer_sync(row(1))["pid"][0])
    os.kill(pid, signal.SIGKILL)
    folder = Path(f"/proc/{pid}")
    with suppress(FileNotFoundError, ProcessLookupError):  # its socket is closed when its last thread has ended
        while (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX" or len(
            [*folder.glob("task/*")]
        ) > 1:
            pass
    assert int(numbers.infer_sync(row(1))["pid"][0]) != pid


def test_a_signal_for_all_processes_of_a_service_ends_none(numbers):
    """The server drains, and what it drains is computed."""
    pid = int(numbers.infer_sync(row(1))["pid"][0])
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert int(numbers.infer_sync(row(1))["pid"][0]) == pid


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_processes_are_as_many_as_asked_for_and_pinned(folder):
    """To the CPUs that the stage names."""

    async def ask(model):
        return await asyncio.gather(*[model.infer({"x": [1.0]}) for _ in range(8)])

    with Model.open(f"{folder}/samples.py:two_processes") as model:
        answers = asyncio.run(ask(model))
    assert {answer["cpus"][0] for answer in answers} == {f"[{CPU}]".encode()}
    assert len({int(answer["pid"][0]) for answer in answers}) == 2


def test_stages_are_counted_and_timed(texts):
    """Each by its name, the model among them."""
    before = texts.stages()["tokenize"]["requests"]
    texts.infer_sync({"text": [b"x"]})
    stages = texts.stages()
    assert list(stages) == ["tokenize", "twice", "add_up"]
    assert stages["tokenize"]["requests"] == before + 1
    times = texts.entry.stage_times()
    assert [entry.stage for entry in times] == ["tokenize", "twice", "add_up"]
    assert all(entry.compute_p50_us > 0 for entry in times)
    assert texts.statistics()["computing"] == 0


def test_a_stage_on_threads_runs_in_this_process(folder):
    """And refuses as one in a process does."""
    with Model.open(f"{folder}/samples.py:threads") as model:
        assert int(model.infer_sync(row(1))["pid"][0]) == os.getpid()
        with pytest.raises(InvalidInputError, match="bad luck"):
            model.infer_sync(row(13))


def test_a_deadline_holds_across_the_steps(texts):
    """What waits behind a call that hangs is dropped when its time is over."""

    def hang():
        with pytest.raises(DeadlineExceededError):
            texts.infer_sync({"text": [b"hang"]})

    hanging = threading.Thread(target=hang)
    hanging.start()
    looks = threading.Event()
    while not texts.stages()["tokenize"]["computing"]:
        looks.wait(0.001)
    with pytest.raises(DeadlineExceededError):
        texts.infer_sync({"text": [b"late"]}, timeout_s=0.2)
    hanging.join()


def test_a_cancelled_request_leaves_nothing_behind(texts):
    """It is taken out of the queue that it waits in."""

    async def ask():
        hanging = asyncio.create_task(texts.infer({"text": [b"hang"]}))
        waiting = asyncio.create_task(texts.infer({"text": [b"waits"]}))
        await asyncio.sleep(0)
        while texts.statistics()["queued"] == 0 and not hanging.done():  # noqa: ASYNC110  a queue tells nobody
            await asyncio.sleep(0.001)
        waiting.cancel()
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
        assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], DeadlineExceededError)

    asyncio.run(ask())
    counts = texts.statistics()
    assert (counts["queued"], counts["computing"]) == (0, 0)
    assert counts["cancelled"] >= 1


def test_large_arrays_grow_the_regions(texts):
    """Beyond the first mebibyte, in both directions."""
    for word in (b"z" * 300_000, b"zz", b"y" * 400_000):
        assert texts.infer_sync({"text": [word]})["sum"].tolist() == [truth(word)]


def test_processes_end_with_the_model(folder):
    """Closing twice is once."""
    model = Model.open(f"{folder}/samples.py:numbers")
    pid = int(model.infer_sync(row(1))["pid"][0])
    model.close()
    model.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_closed_pipeline_says_so_itself(folder):
    """And not that one of its steps was closed, to the request under way either."""

    async def ask():
        model = Model.open(f"{folder}/samples.py:pipeline", auto=False)
        waiting = [asyncio.ensure_future(model.infer({"text": [b"hang"]})) for _ in range(100)]
        await asyncio.sleep(0)  # all are queued, and the stage's process takes some of them
        await asyncio.to_thread(model.close)
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(ReleasedError, match=r"^pipeline 'texts' was closed$"):
            await model.infer({"text": WORDS})
        return {str(error) for error in errors if isinstance(error, ReleasedError)}

    assert asyncio.run(ask()) == {"pipeline 'texts' was closed"}


def test_the_error_in_a_forked_child_says_where_to_open_the_pipeline(numbers):
    """Nothing was closed; the parent goes on."""

    def ask():
        message = r"^pipeline 'numbers' was opened before this process was forked: open it in the process that uses it$"
        for _ in range(2):
            with pytest.raises(ReleasedError, match=message):
                numbers.infer_sync(row(1))
            numbers.close()

    assert succeeded(fork(ask))
    assert numbers.infer_sync(row(2))["y"].tolist() == [[4, 4, 4, 4]]


@pytest.mark.slow
def test_options_hold_for_the_models(folder):
    """Fixed settings instead of measured ones, and no batching."""
    with Model.open(f"{folder}/samples.py:pipeline") as model:
        assert model.entry.steps[1].model.choice is not None
    with Model.open(f"{folder}/samples.py:pipeline", auto=False, batching="off") as model:
        twice = model.entry.steps[1].model
        assert twice.choice is None
        assert (twice.rows.user, twice.rows.batched) == (SETTING_OF["off"], False)


@pytest.mark.parametrize(("steps", "spinning"), [("['a.onnx']", True), ("['a.onnx', double, 'b.onnx']", False)])
def test_fixed_settings_of_models_in_one_pipeline_do_not_spin(tmp_path, steps, spinning):
    """Their threads would keep the CPUs from each other; a profile's settings stay."""
    perceptron([4, 4], tmp_path / "a.onnx")
    perceptron([4, 4], tmp_path / "b.onnx")
    head = "from tailcut import Pipeline, stage\n\n\n"
    tensors = "inputs={'y': 'FP32[4]'}, outputs={'x': 'FP32[4]'}, threads=True"
    double = f"@stage({tensors})\ndef double(y):\n    return 2 * y\n\n\n"
    (tmp_path / "p.py").write_text(f"{head}{double}pipeline = Pipeline('p', {steps})\n")
    with Model.open(f"{tmp_path}/p.py:pipeline", auto=False) as model:
        profiles = [step.model.profile for step in model.entry.steps if step.engine is None]
        assert {profile.settings.engine.spinning for profile in profiles} == {spinning}


def test_the_model_that_a_steps_profile_names_is_trusted(tmp_path, monkeypatch):
    """`trust` is for the models of the pipeline's steps; a PyTorch program is not loaded otherwise."""
    monkeypatch.setenv("TAILCUT_TRUSTED_FILES", "")
    model = perceptron([4, 2], tmp_path / "m.onnx")
    Profile.of_model(model).save(tmp_path / "m.toml")
    (tmp_path / "p.py").write_text("from tailcut import Pipeline\n\npipeline = Pipeline('p', ['m.toml'])\n")
    Model.open(f"{tmp_path}/p.py:pipeline").close()
    assert not is_trusted(model)
    Model.open(f"{tmp_path}/p.py:pipeline", trust=True).close()
    assert is_trusted(model)


def test_models_of_one_pipeline_share_process_and_time():
    """One of several is not alone, and bare ones share the time for measuring."""
    files = [Path("a.onnx"), Path("b.onnx"), Path("c.toml")]
    several, item = StepOptions().shared_by(files), StepOptions().shared_by(files[:1])
    assert (several.around.alone, several.budget_s) == (False, BUDGET_S / 2)
    assert (item.around.alone, item.budget_s) == (True, BUDGET_S)
    assert not StepOptions(around=ServingPlace(2, 2, alone=False)).shared_by(files[:1]).around.alone


@pytest.mark.parametrize("variable", ["ranking", pytest.param("ranking_on_thread", marks=pytest.mark.slow)])
def test_requests_whose_rows_belong_together_are_neither_merged_nor_split(folder, variable):
    """A ranking of more rows than a batch has, and of several requests at once."""
    with Model.open(f"{folder}/samples.py:{variable}") as model:
        assert model.spec.rows is Rows.DEPENDENT
        assert "order" in model.rows.reason
        scores = np.random.default_rng(0).standard_normal(40).astype(np.float32)
        answer = model.infer_sync({"score": scores})
        assert answer["rank"].tolist() == np.argsort(np.argsort(-scores)).tolist()

        async def several() -> list[dict[str, np.ndarray]]:
            return await asyncio.gather(*(model.infer({"score": scores[:count]}) for count in range(1, 20)))

        for count, answer in enumerate(asyncio.run(several()), 1):
            assert sorted(answer["rank"].tolist()) == list(range(count))
            assert "share" not in answer or answer["share"].sum() == pytest.approx(1)
