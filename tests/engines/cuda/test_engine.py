"""The engine for devices: on a stand-in everywhere, and on a CUDA device where there is one."""

import gc
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import CudaOptions, U8Input
from tailcut.engines.compilers import missing_compiler
from tailcut.errors import DeviceLostError, EngineError, InvalidInputError, ReleasedError, UnsupportedError
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings

if find_spec("torch"):  # without it, the tests are collected all the same, and skipped
    import torch
    from tests.engines.cuda.devices import Counting, Failing, Small, Strict, Watched
    from tests.engines.pytorch import programs

    from tailcut.engines.cuda.device import Cuda, NotCapturedError, StandIn, missing, products_in
    from tailcut.engines.cuda.engine import _MOST_SHAPES, CudaEngine
    from tailcut.engines.cuda.staging import SlotState


@pytest.fixture(autouse=True)
def pytorch() -> None:
    pytest.importorskip("torch", reason="needs PyTorch: make test-torch")


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Any:
    if request.param == "stand-in":
        return StandIn()
    if missing():
        pytest.skip(missing())
    return Cuda()


@pytest.fixture
def engine(device: Any, tmp_path: Path) -> "Iterator[CudaEngine]":
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    opened = CudaEngine(path, EngineOptions(name="torch", device="cuda", instances=2), device=device)
    yield opened
    opened.close()


def expected(engine: "CudaEngine", path: Path, x: np.ndarray) -> np.ndarray:
    return torch.export.load(path / "mlp.pt2").module()(torch.from_numpy(x)).detach().numpy()


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)


def test_answers_are_the_programs_own(engine: "CudaEngine", tmp_path: Path) -> None:
    """For sizes that fill a bucket and sizes that do not, in any order, bound and run."""
    for count in (5, 8, 1, 3, 8, 2):
        x, y = rows(count), np.zeros((count, 3), np.float32)
        engine.bind({"x": x}, {"output": y})()
        assert np.allclose(y, expected(engine, tmp_path, x), atol=1e-4)
        assert np.allclose(engine.run({"x": x})["output"], y, atol=1e-5)


def test_several_threads_share_the_slots(engine: "CudaEngine", tmp_path: Path) -> None:
    """More callers than slots: each gets its own answer."""
    truths = [expected(engine, tmp_path, rows(1 + seed)) for seed in range(5)]

    def are_right(seed: int) -> bool:
        answers = [engine.run({"x": rows(1 + seed)})["output"] for _ in range(20)]
        return all(np.allclose(answer, truths[seed], atol=1e-4) for answer in answers)

    with ThreadPoolExecutor(5) as threads:
        assert all(threads.map(are_right, range(5)))


@pytest.fixture
def compiler(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch compiles with, and an empty folder for what it keeps."""
    if missing_compiler(device.name.type):
        pytest.skip(missing_compiler(device.name.type))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("graphs", [True, False])
def test_compiled_programs_answer_alike(device: Any, tmp_path: Path, graphs: bool) -> None:
    """torch.compile for all buckets at once, before the first request; threads and new sizes compile nothing more."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    options = EngineOptions(name="torch", device="cuda", compiler="inductor", cuda=CudaOptions(graphs=graphs))
    engine = CudaEngine(path, options, device=device)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    for count in (1, 5, 2, 16):
        x, y = rows(count), np.zeros((count, 3), np.float32)
        call = engine.bind({"x": x}, {"output": y})
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert np.allclose(y, expected(engine, tmp_path, x), atol=1e-4)
        call()
        assert np.allclose(engine.run({"x": x})["output"], y, atol=1e-5)
    assert counters["unique_graphs"] == before
    engine.close()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("how", ["eager", "inductor"])
def test_weights_in_int8(device: Any, tmp_path: Path, how: Any) -> None:
    """Answers near float32's, whatever else is in the batch, and a quarter of the bytes; biases stay what they are."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 64, 64, 3)
    options = EngineOptions(name="torch", device="cuda", precision="int8", compiler=how)
    engine = CudaEngine(path, options, device=device)
    x = rows(4)
    truth = expected(engine, tmp_path, x)
    found = engine.run({"x": x})["output"]
    assert 0 < np.abs(found - truth).max() < 0.03 * np.abs(truth).max()
    far = np.concatenate([x[:1], 1e4 * x[1:]])
    assert np.allclose(engine.run({"x": far})["output"][:1], found[:1], rtol=1e-2, atol=1e-3)
    engine.close()


def test_int8_needs_weights(device: Any, tmp_path: Path) -> None:
    """A program without any is refused in one line, and so is the precision that only a copy of an ONNX model has."""
    path = programs.function(tmp_path / "f.pt2", torch.relu, 4)
    with pytest.raises(UnsupportedError, match="precision int8: the program has no matrix product"):
        CudaEngine(path, EngineOptions(name="torch", device="cuda", precision="int8"), device=device)
    with pytest.raises(UnsupportedError, match="has no precision int8_static: use f32, tf32, bf16, f16 or int8"):
        CudaEngine(path, EngineOptions(name="torch", device="cuda", precision="int8_static"), device=device)


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the setting that needs none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = programs.perceptron(tmp_path / "mlp.pt2", 4, 3)
    options = EngineOptions(name="torch", device="cuda", compiler="inductor")
    with pytest.raises(UnsupportedError, match=r"'inductor' needs a C\+\+ compiler.*or use compiler 'eager'"):
        CudaEngine(path, options, device=StandIn())


def test_a_closed_engine_says_so(engine: "CudaEngine") -> None:
    """Bound calls as well."""
    x, y = rows(2), np.zeros((2, 3), np.float32)
    call = engine.bind({"x": x}, {"output": y})
    engine.close()
    with pytest.raises(ReleasedError):
        call()


def test_memory_for_free_shapes_is_bounded(tmp_path: Path) -> None:
    """Of the device and of the slots; answers stay right where what was captured is dropped and captured anew."""
    path = programs.wide(tmp_path / "wide.pt2")
    device = Counting()
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=device)
    for width in [*range(1, 150), *range(1, 150)]:
        x = np.full((3, width), width, np.float32)
        assert engine.run({"x": x})["output"].tolist() == [[2.0 * width] * width] * 3
        gc.collect(0)
        assert len(device.memory) <= 2 * _MOST_SHAPES
    slots = [engine._slots.get() for _ in range(2)]
    assert max(len(slot.filled) for slot in slots) <= _MOST_SHAPES
    engine.close()
    gc.collect()
    assert not device.memory


def test_a_closed_engine_gives_the_hosts_memory_back(tmp_path: Path) -> None:
    """Rows that it bound."""
    device = Counting()
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 3)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=device)
    engine.bind({"x": rows(2)}, {"output": np.zeros((2, 3), np.float32)})()
    assert len(device.pinned) == 2
    engine.close()
    assert not device.pinned


FULL = "CUDA out of memory. Tried to allocate 2 GiB\nmore"


@pytest.mark.parametrize("where", ["capture", "replay", "wait"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FULL, "the device's memory is full: use smaller batches"),
        ("CUDA error: no kernel image is available for execution on the device", "cannot compute an operator"),
        ("anything else", "PyTorch failed on the device: anything else"),
    ],
)
def test_a_fault_fails_one_batch(tmp_path: Path, where: str, text: str, message: str) -> None:
    """In one line; the slot is free again, and the next batches are computed rightly on every slot."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=Failing(where, text))
    with pytest.raises(EngineError, match=message) as caught:
        engine.run({"x": rows(2)})
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DeviceLostError)
    for _ in range(4):
        assert np.allclose(engine.run({"x": rows(2)})["output"], expected(engine, tmp_path, rows(2)), atol=1e-5)


def test_what_cannot_be_captured_is_computed_without_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the first batch on, which is answered like all others; one warning says so."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    device = Failing("capture", "operation not permitted when stream is capturing", kind=NotCapturedError)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=device)
    for count in (2, 5, 2):
        device.left = 1
        assert np.allclose(engine.run({"x": rows(count)})["output"], expected(engine, tmp_path, rows(count)), atol=1e-5)
    words = "mlp: computed without CUDA graphs: operation not permitted when stream is capturing"
    assert [one.message for one in caplog.records if one.name == "tailcut"] == [words]


@pytest.mark.parametrize("where", ["capture", "replay", "wait"])
@pytest.mark.parametrize("kind", [IndexError, TypeError, AssertionError, ValueError, UnsupportedError])
def test_an_error_of_any_kind_fails_one_batch(tmp_path: Path, where: str, kind: type[Exception]) -> None:
    """On each slot: the batches after it are computed, and from their own rows alone."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    device = Failing(where, "index 9 is out of bounds", kind=kind)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=device)
    for _ in range(4):
        device.left = 1
        with pytest.raises(UnsupportedError if kind is UnsupportedError else EngineError, match="index 9 is out of"):
            engine.run({"x": rows(7)})
        device.left = 0
        assert np.allclose(engine.run({"x": rows(5)})["output"], expected(engine, tmp_path, rows(5)), atol=1e-5)


def test_a_program_that_fails_on_a_request_computes_the_next(tmp_path: Path) -> None:
    """An index that it computes itself is known to be out of bounds only there: an IndexError on the CPU."""
    path = programs.indexing(tmp_path / "index.pt2", shift=1)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=StandIn())
    for _ in range(3):
        with pytest.raises(EngineError, match="index 10 is out of bounds"):
            engine.run({"x": np.full((2, 1), 9)})
        assert engine.run({"x": np.full((2, 1), 1)})["output"].tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("wrong", [4, -5, 1 << 40])
def test_an_index_out_of_bounds_never_gets_to_the_device(tmp_path: Path, wrong: int) -> None:
    """It would end the device for the process; the message has none of the values, and other requests are answered."""
    path = programs.indexing(tmp_path / "index.pt2")
    options = EngineOptions(name="torch", device="cuda")
    device = Watched()
    device.both = threading.Barrier(1)
    engine = CudaEngine(path, options, device=device)
    with pytest.raises(InvalidInputError, match=r"^input 'x' has an index out of bounds: they are -4 to 3$"):
        engine.run({"x": np.array([[1], [wrong]])})
    assert device.most == 0
    assert engine.run({"x": np.array([[3], [-4]])})["output"].tolist() == [[3.0], [0.0]]
    settings = Settings(engine=options, batching=BatchingSettings(max_batch_size=4, rows="independent"))
    with Model(Profile.of_model(path, settings), engine, Limits()) as model:
        answers: list[Any] = [None] * 12

        def ask(at: int) -> None:
            try:
                answers[at] = float(model.infer_sync({"x": np.array([[wrong if at == 5 else 2]])})["output"][0, 0])
            except InvalidInputError as error:
                answers[at] = str(error)

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "out of bounds" in answers.pop(5)
    assert answers == [2.0] * 11


def test_nothing_is_asked_of_a_device_that_captures(tmp_path: Path) -> None:
    """Batches of other engines wait for the end of a capture, and so does waiting for the whole device."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    device = Strict()
    options = EngineOptions(name="torch", device="cuda", instances=2)
    engine, other = (CudaEngine(path, options, device=device) for _ in range(2))
    for _ in range(6):
        engine.run({"x": rows(2)})
        other.run({"x": rows(2)})
    truths = {count: expected(engine, tmp_path, rows(count)) for count in (1, 2, 7, 13)}
    device.slow = True
    failed: list[str] = []

    def guarded(one: "CudaEngine", count: int) -> None:
        try:
            answer = one.run({"x": rows(count)})["output"]
            assert np.allclose(answer, truths[count], atol=1e-4)
        except (AssertionError, EngineError) as error:
            failed.append(str(error))

    capture = threading.Thread(target=guarded, args=(engine, 7))
    capture.start()
    assert device.capturing.wait(10)
    beside = [threading.Thread(target=guarded, args=(one, count)) for one in (engine, other) for count in (2, 1, 13)]
    beside.append(threading.Thread(target=lambda: guarded_recover(other, failed)))
    for thread in beside:
        thread.start()
    for thread in (capture, *beside):
        thread.join()
    assert not failed
    assert not device.disturbed.is_set()
    assert engine._captures
    assert other._captures


def test_what_is_computed_before_a_capture_waits_for_the_input(tmp_path: Path) -> None:
    """The memory of a new bucket holds anything until then; an index in it could end the device."""
    asked: list[str] = []

    class Noting(StandIn):
        def enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Any) -> None:
            asked.append(state.name)
            super().enqueue(state, events, step)

        def capture(self, compute: Any, pool: Any = None) -> Any:
            asked.append("capture")
            return super().capture(compute, pool)

    path = programs.indexing(tmp_path / "index.pt2")
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=Noting())
    engine.run({"x": np.ones((2, 1), np.int64)})
    assert asked == ["COPYING_IN", "COMPUTING", "capture", "COMPUTING", "COPYING_OUT"]


def guarded_recover(engine: "CudaEngine", failed: list[str]) -> None:
    """What an engine does after a batch that failed."""
    try:
        slot = engine._slots.get()
        engine._recover(slot, RuntimeError("a program's error"))
        engine._slots.put(slot)
    except EngineError as error:
        failed.append(str(error))


def test_batches_go_on_while_another_model_is_compiled(tmp_path: Path) -> None:
    """Captured graphs and new sizes, which are captured by a batch after it."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    options = EngineOptions(name="torch", device="cuda", cuda=CudaOptions(slots=1))
    device = StandIn()
    engine = CudaEngine(path, options, device=device)
    engine.run({"x": rows(2)})
    with products_in(tf32=False), device.gate.warming():
        ended: list[np.ndarray] = []
        for count in (2, 5):
            thread = threading.Thread(target=lambda n=count: ended.append(engine.run({"x": rows(n)})["output"]))
            thread.start()
            thread.join(20)
            assert np.allclose(ended[-1], expected(engine, tmp_path, rows(count)), atol=1e-4)
        assert len(ended) == 2
        assert len(engine._graphs) == 1
    engine.run({"x": rows(5)})
    assert len(engine._graphs) == 2
    assert all(graph.captured for graph in engine._graphs.values())


def test_a_full_device_drops_the_graphs_of_other_shapes(tmp_path: Path) -> None:
    """And tries the batch again, once; in every slot that is free."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    device = Small(room=5)
    options = EngineOptions(name="torch", device="cuda", instances=2, cuda=CudaOptions(buckets="off"))
    engine = CudaEngine(path, options, device=device)
    for count in (*range(1, 20), 3, 1):
        answer = engine.run({"x": rows(count)})["output"]
        assert np.allclose(answer, expected(engine, tmp_path, rows(count)), atol=1e-4)
        gc.collect(0)
    assert device.given_back
    device.room = 0
    for _ in range(2):
        with pytest.raises(EngineError, match="the device's memory is full"):
            engine.run({"x": rows(30)})
    device.room = 9
    engine.run({"x": rows(30)})


@pytest.mark.parametrize(("precision", "most"), [("f32", 4.5), ("bf16", 2.5), ("int8", 1.5)])
def test_weights_are_held_once(tmp_path: Path, precision: Any, most: float) -> None:
    """In the precision of the engine; what the file had is gone, and its bytes per weight with it."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 512, 512, 512)
    gc.collect()
    before = tensor_bytes()
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda", precision=precision), device=StandIn())
    gc.collect()
    assert tensor_bytes() - before < most * 2 * 512 * 512
    engine.close()


def tensor_bytes() -> int:
    storages = {}
    for one in gc.get_objects():
        if type(one) in {torch.Tensor, torch.nn.Parameter}:
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


def test_a_large_batch_is_computed(tmp_path: Path) -> None:
    """As large as a profile may have it."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 3)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=StandIn())
    for count in (1025, 65536):
        answer = engine.run({"x": rows(count)})["output"]
        assert np.allclose(answer, expected(engine, tmp_path, rows(count)), atol=1e-4)


def test_a_lost_device_fails_every_batch(tmp_path: Path) -> None:
    """Each in one line that says to restart, and none is tried again; no call hangs for want of a slot."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    lost = Failing("wait", "CUDA error: an illegal memory access was encountered", lost=True)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=lost)
    for _ in range(5):
        with pytest.raises(DeviceLostError, match="lost to this process, restart it"):
            engine.run({"x": rows(2)})


def test_the_cpu_computes_what_the_device_could_not(tmp_path: Path) -> None:
    """Where the profile has it so: through the whole model, a full device once, and a lost one from then on."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    options = EngineOptions(name="torch", device="cuda")
    second = SecondEngine(use="fallback", engine=EngineOptions(name="torch", threads=1))
    settings = Settings(engine=options, batching=BatchingSettings(max_batch_size=4, second=second))
    illegal = "CUDA error: an illegal memory access was encountered"
    for device, rescued in ((Failing("replay", FULL), 1), (Failing("replay", illegal, lost=True), 3)):
        device.left = 0
        tries = 1 if device.lost else 2  # a full device is tried again without the graphs of other shapes
        engine = CudaEngine(path, options, device=device)
        with Model(Profile.of_model(path, settings), engine, Limits()) as model:
            device.left = tries
            for _ in range(3):
                answer = model.infer_sync({"x": rows(1)})["output"]
                assert np.allclose(answer, expected(engine, tmp_path, rows(1)), atol=1e-5)
            assert model.statistics()["rescued"] == rescued
            assert model.statistics()["failed"] == 0


def test_without_graphs_answers_are_the_same(device: Any, tmp_path: Path) -> None:
    """Operator after operator is launched, in float32 and in tf32."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    for precision in ("f32", "tf32"):
        options = EngineOptions(name="torch", device="cuda", precision=precision, cuda=CudaOptions(graphs=False))  # type: ignore[arg-type]
        engine = CudaEngine(path, options, device=device)
        for count in (3, 1, 3):
            answer = engine.run({"x": rows(count)})["output"]
            assert np.allclose(answer, expected(engine, tmp_path, rows(count)), atol=1e-2)
        assert torch.backends.cudnn.allow_tf32  # PyTorch's own switch is as it was
        engine.close()


@pytest.mark.parametrize(
    "cuda",
    [
        CudaOptions(buckets="off"),
        CudaOptions(buckets=(3, 6)),
        CudaOptions(slots=1),
        CudaOptions(slots=5),
        CudaOptions(pinned=False),
        CudaOptions(graph_memory="shared"),
        CudaOptions(graph_memory="shared", buckets="off", slots=1),
        CudaOptions(caching=False),
        CudaOptions(caching=False, graphs=False),
    ],
    ids=lambda cuda: Settings(engine=EngineOptions(cuda=cuda)).describe(),
)
def test_no_setting_changes_an_answer(device: Any, tmp_path: Path, cuda: CudaOptions) -> None:
    """Sizes up and down, from several threads, each of which has its own rows."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda", instances=2, cuda=cuda), device=device)
    truths = {count: expected(engine, tmp_path, rows(count)) for count in range(1, 10)}
    wrong: list[int] = []

    def ask(counts: Sequence[int]) -> None:
        for count in counts:
            y = np.zeros((count, 3), np.float32)
            engine.bind({"x": rows(count)}, {"output": y})()
            wrong.extend([count] if not np.allclose(y, truths[count], atol=1e-4) else [])

    threads = [threading.Thread(target=ask, args=(order,)) for order in (range(1, 10), range(9, 0, -1), [4, 7] * 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    engine.close()


def watched(folder: Path, cuda: CudaOptions, instances: int = 2) -> "tuple[CudaEngine, Watched]":
    device = Watched()
    path = programs.perceptron(folder / "mlp.pt2", 8, 16, 3)
    options = EngineOptions(name="torch", device="cuda", instances=instances, cuda=cuda)
    return CudaEngine(path, options, device=device), device


@pytest.mark.parametrize(("slots", "most"), [(0, 2), (1, 1), (2, 2)])
def test_slots_are_batches_on_the_device_at_a_time(tmp_path: Path, slots: int, most: int) -> None:
    """With one, nothing overlaps, however many batches compute at a time."""
    engine, device = watched(tmp_path, CudaOptions(slots=slots))
    threads = [threading.Thread(target=engine.run, args=({"x": rows(2)},)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device.most == most


@pytest.mark.parametrize(("pinned", "arrays"), [(True, 2), (False, 0)])
def test_rows_are_pinned_or_not(tmp_path: Path, pinned: bool, arrays: int) -> None:
    """Inputs and outputs that are bound."""
    engine, device = watched(tmp_path, CudaOptions(pinned=pinned))
    engine.bind({"x": rows(2)}, {"output": np.zeros((2, 3), np.float32)})
    assert device.pinned == arrays


@pytest.mark.parametrize("memory", ["private", "shared"])
def test_graphs_of_a_slot_share_their_memory(tmp_path: Path, memory: Any) -> None:
    """And with no other slot, whose graphs may be computed at the same time."""
    engine, device = watched(tmp_path, CudaOptions(graph_memory=memory, slots=2), instances=1)
    device.both = threading.Barrier(1)
    for count in (1, 1, 2, 2, 4, 4):  # slots take turns
        engine.run({"x": rows(count)})
    first, second, *later = device.pools
    assert first is second is None
    found = {key: graph.pool for key, graph in engine._graphs.items()}
    for slot in range(2):
        pools = [pool for key, pool in found.items() if key.slot == slot]
        assert len(pools) == 3
        assert len(set(map(id, pools))) == (1 if memory == "shared" else 3)
    assert all(pool is None for pool in later) is (memory == "private")
    assert not {id(pool) for key, pool in found.items() if key.slot} & {
        id(pool) for key, pool in found.items() if not key.slot
    }


@pytest.mark.parametrize(("caching", "times"), [(True, 0), (False, 3)])
def test_memory_is_kept_or_given_back(tmp_path: Path, caching: bool, times: int) -> None:
    """After each batch."""
    engine, device = watched(tmp_path, CudaOptions(caching=caching))
    device.both = threading.Barrier(1)
    for _ in range(3):
        engine.run({"x": rows(2)})
    assert device.given_back == times


def test_memory_for_shapes_has_a_bound(tmp_path: Path) -> None:
    """Without buckets each number of rows has its own, and what was forgotten is computed rightly again."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    options = EngineOptions(name="torch", device="cuda", cuda=CudaOptions(buckets="off", slots=1))
    engine = CudaEngine(path, options, device=StandIn())
    for count in (*range(1, _MOST_SHAPES + 9), 3, 1):
        answer = engine.run({"x": rows(count)})["output"]
        assert np.allclose(answer, expected(engine, tmp_path, rows(count)), atol=1e-4)
        assert engine._graphs.keys() == engine._memory.keys()
        assert len(engine._memory) <= _MOST_SHAPES


def test_pixels_are_normalised_on_the_device(device: Any, tmp_path: Path) -> None:
    """uint8 is what is copied."""
    path = programs.images(tmp_path / "images.pt2")
    fold = U8Input(scale=(1 / 255,), offset=(-0.5,))
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda", u8_input=fold), device=device)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    plain = open_engine(path, EngineOptions(name="torch", threads=1))
    wanted = plain.run({"x": (pixels / np.float32(255) - np.float32(0.5)).astype(np.float32)})["output"]
    assert np.allclose(engine.run({"x": pixels})["output"], wanted, atol=1e-3)


def test_calls_have_their_phases(engine: "CudaEngine") -> None:
    """Copying in, launching, computing and copying out, for each call."""
    for _ in range(3):
        engine.run({"x": rows(2)})
    found = {one["phase"]: one for one in engine.phases.summary()}
    assert {one["calls"] for one in found.values()} == {3}
    assert all(float(one["median_us"]) >= 0 for one in found.values())
    assert float(found["compute"]["median_us"]) > 0


def test_without_a_device_it_says_what_is_missing(tmp_path: Path) -> None:
    """In one line, from `open_engine`; other engines have no such device at all."""
    if not missing():
        pytest.skip("there is a device")
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 3)
    with pytest.raises(UnsupportedError, match="device cuda: "):
        open_engine(path, EngineOptions(name="torch", device="cuda"))
    with pytest.raises(UnsupportedError, match="device cuda has no engine openvino"):
        open_engine(path, EngineOptions(name="openvino", device="cuda"))
