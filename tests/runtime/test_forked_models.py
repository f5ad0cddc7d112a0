"""Models in forked children: opened anew or refused at once, and never a hang or another process's answer."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.forked import ended_well, fork, start, succeeded

import tailcut
from tailcut.engines import EngineOptions
from tailcut.errors import ReleasedError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

# A pre-forking server: it opens the model, forks two workers that accept from one listener, and ends them by SIGTERM.
PREFORKING = """
import json, os, signal, socket, sys
import numpy as np
import tailcut

def work(listener, model):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        with listener.accept()[0] as client:
            x = np.float32(json.loads(client.recv(4096)))
            answer = {"y": model.infer_sync({"x": x}, timeout_s=20)["y"].tolist(), "pid": os.getpid()}
            client.sendall(json.dumps(answer).encode())

model = tailcut.Model.open(sys.argv[1])
model.infer_sync({"x": np.zeros((1, 4), np.float32)})
listener = socket.create_server(("127.0.0.1", 0))
workers = []
for _ in range(2):
    worker = os.fork()
    if not worker:
        work(listener, model)
    workers.append(worker)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
for worker in workers:
    os.kill(worker, signal.SIGTERM)
codes = [os.waitpid(worker, 0)[1] for worker in workers]
model.close()
sys.exit(max(codes))
"""
INPUTS = [np.random.default_rng(seed).standard_normal((1 + seed % 4, 4)).astype(np.float32) for seed in range(20)]
_model: Model | None = None  # inherited by children that are forked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return perceptron([4, 64, 3], tmp_path / "mlp.onnx")


def opened(path: Path, *, dispatch: str = "worker", **engine: object) -> Model:
    settings = Settings(engine=EngineOptions(**engine), batching=BatchingSettings(dispatch=dispatch, max_batch_size=8))
    return Model.open(Profile.of_model(path, settings))


@pytest.fixture
def expected(path: Path) -> Iterator[list[np.ndarray]]:
    with opened(path, threads=1) as model:
        yield [model.infer_sync({"x": x})["y"] for x in INPUTS]


def check(model: Model, expected: list[np.ndarray]) -> None:
    for x, y in zip(INPUTS, expected, strict=True):
        assert np.allclose(model.infer_sync({"x": x}, timeout_s=20)["y"], y, rtol=1e-4, atol=1e-5)


def check_inherited(path: Path, expected: list[np.ndarray]) -> None:
    """In a child of `multiprocessing`: the inherited model, or one of its own where nothing is inherited."""
    check(_model or tailcut.Model.open(path), expected)


def test_parent_and_children_compute_at_once(path: Path, expected: list[np.ndarray]) -> None:
    """Forked while four threads compute: each child's first call opens the model there, once for all its threads."""
    with opened(path, threads=2) as model:
        threads = [threading.Thread(target=check, args=(model, expected)) for _ in range(4)]
        for thread in threads:
            thread.start()

        def ask() -> None:
            failed: list[BaseException] = []
            threading.excepthook = lambda hook: failed.append(hook.exc_value)
            asking = [threading.Thread(target=check, args=(model, expected)) for _ in range(3)]
            for item in asking:
                item.start()
            for item in asking:
                item.join()
            assert not failed
            assert model.statistics()["requests"] == 3 * len(INPUTS)
            model.close()

        children = [fork(ask) for _ in range(3)]
        check(model, expected)
        for thread in threads:
            thread.join()
        assert succeeded(*children)
        check(model, expected)


def test_no_batch_is_computed_while_a_process_forks(path: Path, expected: list[np.ndarray]) -> None:
    """The engine's threads may hold a lock then, which nobody gives back in the child; the parent goes on at once."""
    with opened(path, threads=1, instances=2) as model:
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                check(model, expected)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()

        def look() -> None:
            assert not model.entry.scheduler.computing

        children = [fork(look) for _ in range(10)]
        before = model.statistics()["requests"]
        check(model, expected)
        stopped.set()
        for thread in threads:
            thread.join()
        assert model.statistics()["requests"] > before
        assert succeeded(*children)


@pytest.mark.parametrize("dispatch", ["inline", "adaptive"])
def test_models_that_compute_on_the_callers_thread(path: Path, expected: list[np.ndarray], dispatch: str) -> None:
    """They are opened anew as well."""
    with opened(path, dispatch=dispatch, threads=1) as model:
        assert succeeded(fork(lambda: check(model, expected)))


def test_a_child_awaits_answers_on_its_own_loop(path: Path, expected: list[np.ndarray]) -> None:
    """What the parent's loop was told stays with the parent."""
    with opened(path, threads=1) as model:
        asyncio.run(model.infer({"x": INPUTS[0]}))

        async def ask() -> None:
            answers = await asyncio.gather(*(model.infer({"x": x}, timeout_s=20) for x in INPUTS))
            for answer, y in zip(answers, expected, strict=True):
                assert np.allclose(answer["y"], y, rtol=1e-4, atol=1e-5)

        assert succeeded(fork(lambda: asyncio.run(ask())))


def test_openvino_is_refused_at_once(path: Path) -> None:
    """It does not survive a fork, and says what to do; the parent goes on."""
    with opened(path, name="openvino", threads=1) as model:

        def ask() -> None:
            with pytest.raises(ReleasedError, match="open it only after the fork"):
                model.infer_sync({"x": INPUTS[0]})
            with pytest.raises(ReleasedError, match="'spawn'"):
                asyncio.run(model.infer({"x": INPUTS[0]}))
            model.close()

        assert succeeded(fork(ask))
        assert model.infer_sync({"x": INPUTS[0]})["y"].shape == (1, 3)


def test_a_closed_model_stays_closed(path: Path) -> None:
    """Whether it was closed before the fork or in the child."""
    with opened(path, threads=1) as model:

        def close() -> None:
            model.close()
            with pytest.raises(ReleasedError, match="was closed"):
                model.infer_sync({"x": INPUTS[0]})

        assert succeeded(fork(close))
    assert succeeded(fork(close))


def test_a_model_file_that_has_changed_is_refused(path: Path) -> None:
    """A child never computes another model than its parent; once the file is back, it opens it."""
    with opened(path, threads=1) as model:
        before = path.read_bytes()

        def ask() -> None:
            perceptron([4, 8, 3], path)
            with pytest.raises(tailcut.errors.ProfileError, match="has another SHA-256 than"):
                model.infer_sync({"x": INPUTS[0]})
            path.write_bytes(before)
            assert model.infer_sync({"x": INPUTS[0]})["y"].shape == (1, 3)

        assert succeeded(fork(ask))


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn"))]
)
def test_children_of_multiprocessing(
    path: Path, expected: list[np.ndarray], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each way to start a process, while the parent computes as well."""
    with opened(path, threads=2) as model:
        monkeypatch.setattr(f"{__name__}._model", model)
        children = [start(method, check_inherited, path, expected) for _ in range(2)]
        check(model, expected)
        assert ended_well(*children)


def test_a_pre_forking_server(path: Path, expected: list[np.ndarray]) -> None:
    """Workers answer with a model that their master had opened, and end by `sys.exit` as any program does."""
    command = [sys.executable, "-c", PREFORKING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        assert master.stdin is not None
        assert master.stdout is not None
        port = int(master.stdout.readline())
        workers = set()
        for x, y in list(zip(INPUTS, expected, strict=True)) * 3:
            with socket.create_connection(("127.0.0.1", port), 60) as client:
                client.sendall(json.dumps(x.tolist()).encode())
                answer = json.loads(client.makefile("rb").read())
            workers.add(answer["pid"])
            assert np.allclose(np.float32(answer["y"]), y, rtol=1e-4, atol=1e-5)
        master.stdin.close()
        assert master.wait(60) == 0
    assert workers
    assert master.pid not in workers
