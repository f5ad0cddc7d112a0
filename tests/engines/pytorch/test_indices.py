"""What is known of inputs that are indices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")

from tailcut.engines import open_engine  # noqa: E402  it needs PyTorch
from tailcut.engines.base import EngineOptions  # noqa: E402  it needs PyTorch
from tailcut.engines.compilers import missing_compiler  # noqa: E402  likewise
from tailcut.engines.torch.indices import check_indices  # noqa: E402  likewise
from tailcut.engines.torch.program import read_program  # noqa: E402  likewise
from tailcut.errors import EngineError, InvalidInputError  # noqa: E402  likewise

TABLE = torch.arange(10.0).reshape(5, 2)


@pytest.mark.parametrize(
    ("compute", "bounds"),
    [
        (lambda x: torch.nn.functional.embedding(x, TABLE), (0, 4)),
        (lambda x: torch.nn.functional.embedding(x.view(-1).to(torch.int32), TABLE), (0, 4)),
        (lambda x: TABLE.index_select(0, x), (0, 4)),
        (lambda x: TABLE.index_select(1, x), (0, 1)),
        (lambda x: torch.nn.functional.one_hot(x, 7), (0, 6)),
        (lambda x: TABLE[x], (-5, 4)),
        (lambda x: TABLE[:, x], (-2, 1)),
        (lambda x: TABLE[x] + torch.nn.functional.embedding(x, TABLE[:3]), (0, 2)),
        (lambda x: TABLE[x[:, None].expand(-1, 2)], (-5, 4)),
        (lambda x: TABLE.index_select(0, x.unsqueeze(0).transpose(0, 1).contiguous().flatten()), (0, 4)),
        (lambda x: torch.zeros(x.shape[0], 4).scatter(1, x[:, None], 1.0), (0, 3)),
        (lambda x: torch.zeros(3, x.shape[0]).scatter_add(0, x[None], torch.ones(1, x.shape[0])), (0, 2)),
        (lambda x: torch.zeros(6).index_add(0, x, torch.ones(x.shape[0])), (0, 5)),
        (TABLE.take, (-10, 9)),
        (lambda x: TABLE.take_along_dim(x[:, None], 0), (0, 4)),
        (lambda x: torch.zeros(3).index_put((x,), torch.tensor(1.0)), (-3, 2)),
        (lambda x: TABLE[x % 5], None),
        (lambda x: x * 2, None),
    ],
)
def test_bounds_by_the_operators_that_read(
    tmp_path: Path, compute: Callable[[Any], Any], bounds: tuple[int, int] | None
) -> None:
    """The narrowest of them; what an operator is given that computes with the input says nothing of it."""
    shapes = {"x": {0: programs.BATCH}}
    path = programs.save(tmp_path / "f.pt2", programs.Function(compute), (torch.tensor([0, 1, 1]),), shapes)
    program = read_program(path, EngineOptions(name="torch"))
    for value in range(-9, 9):
        given = [torch.from_numpy(np.array([0, value, 0]))]
        if bounds is None or bounds[0] <= value <= bounds[1]:
            check_indices(program.spec, program.hints, given)
        else:
            with pytest.raises(InvalidInputError, match=f"they are {bounds[0]} to {bounds[1]}"):
                check_indices(program.spec, program.hints, given)


@pytest.mark.parametrize(
    ("compute", "least"),
    [
        (lambda x, i: x.gather(1, i), 0),
        (lambda x, i: x.index_select(1, i[0]), None),
        (lambda x, i: x[:, i[:, 0]], None),
        (lambda x, i: x[:, i], -1),
        (lambda x, i: torch.cat([x, x], 1).gather(1, i), 0),
        (lambda x, i: x.index_select(1, i.flatten()), 0),
    ],
)
def test_bounds_by_the_request_itself(tmp_path: Path, compute: Callable[[Any, Any], Any], least: int | None) -> None:
    """An axis of free length has a size of its own in each request; a part of the indices says nothing of the rest."""
    shapes = ({0: programs.BATCH, 1: torch.export.Dim("length", max=99)}, {0: programs.BATCH})
    given = (torch.randn(3, 7), torch.zeros(3, 2, dtype=torch.long))
    path = programs.save(tmp_path / "f.pt2", Two(compute), given, {"x": shapes[0], "i": shapes[1]})
    program = read_program(path, EngineOptions(name="torch"))
    truth = torch.export.load(path).module()
    for length in (4, 7):
        for value in (-2 * length, -length, -1, 0, length - 1, length, 2 * length):
            x, indices = torch.randn(2, length), torch.tensor([[0, value], [0, 0]])
            try:
                check_indices(program.spec, program.hints, [x, indices])
            except InvalidInputError:
                with pytest.raises((IndexError, RuntimeError)):
                    truth(x, indices)
            else:
                if least is not None:
                    truth(x, indices)


def test_a_bad_index_is_the_mistake_of_the_request(tmp_path: Path) -> None:
    """It names the input, run and bound; the next call is right."""
    engine = open_engine(programs.indexing(tmp_path / "index.pt2"), EngineOptions(name="torch"))
    good, bad, out = np.array([[3], [-4]]), np.array([[1], [4]]), np.empty((2, 1), np.float32)
    bound = engine.bind({"x": bad}, {"output": out})
    for call in (lambda: engine.run({"x": bad}), bound):
        with pytest.raises(InvalidInputError, match=r"^input 'x' has an index out of bounds: they are -4 to 3$"):
            call()
    assert engine.run({"x": good})["output"].tolist() == [[3.0], [0.0]]


@pytest.mark.parametrize(
    ("compute", "unchecked"),
    [
        (lambda x: torch.nn.functional.embedding(x, TABLE), False),
        (lambda x: torch.nn.functional.embedding(x + 1, TABLE), True),
        (lambda x: TABLE[torch.arange(x.shape[0]) % 5] + x[:, None], False),
        (lambda x: TABLE[torch.zeros_like(x)], False),
        (lambda x: TABLE[x.argmax(0)], True),
        (lambda x: TABLE.gather(0, x[:, None].expand(-1, 2)), False),
        (lambda x: torch.nn.functional.one_hot(x.cumsum(0), 9), True),
        (lambda x: x * 2, False),
    ],
)
def test_indices_that_nothing_can_check(tmp_path: Path, compute: Callable[[Any], Any], unchecked: bool) -> None:
    """Those that the program computes from a request's values; what follows from its sizes is the program's own."""
    path = programs.save(
        tmp_path / "f.pt2", programs.Function(compute), (torch.tensor([0, 1, 1]),), {"x": {0: programs.BATCH}}
    )
    assert read_program(path, EngineOptions(name="torch")).computes_indices == unchecked


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_compiler("cpu")), reason="needs a C++ compiler")
@pytest.mark.parametrize("compiler", ["inductor", "aot_inductor"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_bad_index_does_not_end_a_process_of_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, shift: int
) -> None:
    """On several threads, where what compiled loops throw ends the process: in that of a lookup as in any other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = torch.randn(5, 64)
    lookup = programs.Function(lambda x: torch.nn.functional.embedding(x + shift if shift else x, table) * 2)
    ids = torch.zeros(3, 512, dtype=torch.long)
    path = programs.save(tmp_path / "f.pt2", lookup, (ids,), {"x": {0: programs.BATCH}})
    engine = open_engine(path, EngineOptions(name="torch", compiler=compiler, threads=2))
    x = np.zeros((64, 512), np.int64)
    right = engine.run({"x": x})["output"]
    x[5, 5] = 7
    words = "PyTorch failed: (index out of bounds|the compiled program raised an error on this request)"
    kind, text = (EngineError, words) if shift else (InvalidInputError, "input 'x' has an index out of bounds")
    with pytest.raises(kind, match=f"^{text}"):
        engine.run({"x": x})
    x[5, 5] = 0
    assert np.array_equal(engine.run({"x": x})["output"], right)


class Two(torch.nn.Module):
    """A function of two tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any, i: Any) -> Any:
        return self.function(x, i)
