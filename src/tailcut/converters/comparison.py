"""Compares the answers of a model with those of its ONNX model.

For models whose inputs are rows of numbers, there are several kinds of requests, because converters often treat these
wrongly: zeros, missing values, values around the thresholds of trees, and whole numbers for categories. The user's rows
replace generated ones; then zeros and missing values are only put into columns where the user's rows have some.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from tailcut.converters.original import Original, first_line
from tailcut.converters.thresholds import thresholds_of
from tailcut.converters.trees import Tabular
from tailcut.engines.agreement import distance
from tailcut.engines.base import Arrays, Engine
from tailcut.engines.samples import find_samples
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.spec import ModelSpec

Requests = Callable[[ModelSpec], Sequence[Arrays]]

_ROWS = 64
_MOST_FAR = 1e-3  # the largest distance of floats, as a share of their norm
_MOST_OTHER = 0.01  # the same for labels, which may differ near a threshold in float32, and for bfloat16
_TIED = 1e-5  # two scores this close, or one this close to 0, are a tie: rounding decides the label
_SHARE = 0.25  # share of zeros or missing values among a request's values
_MOST_COLUMNS = 64  # columns that are tested one by one, at most
_OWN_ROWS = "; generated rows do not fit it: give your own with --data FILE"
_WHOLE = 10  # whole numbers are drawn below this


@dataclass(frozen=True, slots=True)
class Comparison:
    """The distance between two models' answers to some requests.

    Args:
        distance: the largest of any output: for floats, the norm of the difference as a share of the norm; for others,
            the share of elements that differ.
        limit: the largest acceptable distance.
        rows: the number of rows compared.
        kinds: of rows, such as "with zeros"; only one where its answers differ.
    """

    distance: float
    limit: float
    rows: int
    kinds: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the answers agree."""
        return self.distance <= self.limit


def compare(original: Original, engine: Engine, path: Path, requests: Requests | None) -> Comparison:
    """Compare the answers to one kind of request after the other, until they differ.

    Args:
        original: the model of another format.
        engine: has the ONNX model.
        path: of the ONNX model.
        requests: the user's, of one row each where rows are independent; None: generated ones.

    Raises:
        UsageError: the user's requests do not fit the model.
        UnsupportedError: the original cannot compute a request, or has another number or other shapes of outputs.
    """
    both = _Both(original, engine, made_up=not requests)
    if isinstance(original, Tabular):
        asked = _own_rows(both, requests) if requests else _made_up_rows(both, path)
    elif requests:
        asked = (("of your own", part) for part in _joined(engine.spec, requests(engine.spec)))
    else:
        asked = iter([("made up", _made_up(engine))])
    results = []
    for kind, request in asked:
        result = both.compare(kind, request)
        if not result.right:
            return result
        results.append(result)
    worst = max(results, key=lambda result: result.distance / result.limit)
    kinds = tuple(dict.fromkeys(kind for result in results for kind in result.kinds))
    return Comparison(worst.distance, worst.limit, sum(result.rows for result in results), kinds)


class _Both:
    """A model and its ONNX model, which get the same generated or user's requests."""

    def __init__(self, original: Original, engine: Engine, *, made_up: bool) -> None:
        self.original = original
        self.engine = engine
        self._advice = _OWN_ROWS if made_up else ""

    def compare(self, kind: str, request: Arrays) -> Comparison:
        tabular = isinstance(self.original, Tabular)
        rows = len(next(iter(request.values()))) if tabular or self.engine.spec.batchable else 1
        try:
            outputs = self.engine.run(request)
        except TailcutError as error:
            if not self.takes(request):
                raise UnsupportedError(f"{error}{self._advice}") from None
            return Comparison(np.inf, _MOST_FAR, rows, (kind,))
        expected = self._expected(request, outputs)
        worst, limit = 0.0, _MOST_FAR
        clear = _clear(expected, of_one=isinstance(self.original, Tabular) and self.original.scores)
        for (name, array), truth in zip(outputs.items(), expected, strict=True):
            floats = array.dtype.kind == "f"
            allowed = _MOST_FAR if floats else _MOST_OTHER
            wanted = _like(truth, array)
            if wanted.shape != array.shape:
                raise UnsupportedError(
                    f"the ONNX model's output {name!r} has the shape {[*array.shape]}, where the original's has "
                    f"{[*wanted.shape]}: not written"
                )
            if not floats and clear is not None and wanted.shape[:1] == clear.shape:
                wanted, array = wanted[clear], array[clear]  # noqa: PLW2901  without ties
            apart = distance({name: wanted}, {name: array})
            if apart / allowed >= worst / limit:
                worst, limit = apart, allowed
        return Comparison(worst, limit, rows, (kind,))

    def takes(self, request: Arrays) -> bool:
        """Whether the original can compute a request."""
        try:
            self._answer(request, dict.fromkeys(self.engine.spec.output_names, np.zeros(0)))
        except Exception:  # noqa: BLE001  the libraries' errors share no base
            return False
        return True

    def _expected(self, request: Arrays, outputs: Arrays) -> list[np.ndarray]:
        try:
            expected = self._answer(request, outputs)
        except Exception as error:  # noqa: BLE001  the libraries' errors share no base
            what = "the original cannot compute the request that the ONNX model answers"
            raise UnsupportedError(f"{what}: {first_line(error)}{self._advice}") from None
        if len(expected) != len(outputs):
            raise UnsupportedError(
                f"the original has {len(expected)} outputs and the ONNX model {len(outputs)}: not written"
            )
        return expected

    def _answer(self, request: Arrays, outputs: Arrays) -> list[np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as warnings about unknown categories
            return self.original.answer(request, outputs)


def _made_up(engine: Engine) -> dict[str, np.ndarray]:
    samples = find_samples(engine)
    return samples.make(_ROWS if engine.spec.batchable else samples.rows, seed=0)


def _made_up_rows(both: _Both, path: Path) -> Iterator[tuple[str, Arrays]]:
    """Yield kinds of generated rows that the original accepts."""
    random = np.random.default_rng(1)
    [(name, rows)] = find_samples(both.engine).make(_ROWS, seed=0).items()
    kind = "made up"
    columns = _whole_columns(both, name, rows, random)
    if columns:
        rows = _with_whole_numbers(rows, columns, random)
        kind = f"with whole numbers in {_listed(columns)}"
    yield kind, {name: rows}
    yield "with zeros", {name: _with(rows, 0.0, range(rows.shape[1]), random)}
    missing = _nullable(both, name, rows)
    if missing:
        yield "with missing values", {name: _with(rows, np.nan, missing, random)}
    around = thresholds_of(path)
    if around and not columns:
        yield "around the thresholds of its trees", {name: _around(rows, around, random)}


def _own_rows(both: _Both, requests: Requests) -> Iterator[tuple[str, Arrays]]:
    """Yield the user's rows, and the same with more zeros and missing values in columns that have some."""
    random = np.random.default_rng(1)
    [name] = both.engine.spec.input_names
    rows = np.concatenate([request[name] for request in requests(both.engine.spec)])
    yield "of your own", {name: rows}
    for kind, value, there in (("with zeros", 0.0, rows == 0), ("with missing values", np.nan, np.isnan(rows))):
        columns = np.flatnonzero(there.any(axis=0)).tolist()
        request = {name: _with(rows, value, columns, random)}
        if columns and both.takes(request):
            yield f"of your own {kind}", request


def _joined(spec: ModelSpec, requests: Sequence[Arrays]) -> Iterator[dict[str, np.ndarray]]:
    """Yield requests of one row each joined to one, where shapes are equal and rows independent; else unchanged."""
    if not spec.batched:
        yield from map(dict, requests)
        return
    shapes = [tuple(array.shape[1:] for array in request.values()) for request in requests]
    order = sorted(range(len(requests)), key=lambda index: shapes[index])
    for _, members in groupby(order, key=lambda index: shapes[index]):
        parts = [requests[index] for index in members]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _whole_columns(both: _Both, name: str, rows: np.ndarray, random: np.random.Generator) -> list[int]:
    """The columns in which answers agree only for whole numbers, as for categories; none where that does not help.

    Numbers that are no category, such as 0.37, are often treated as different unknown categories.
    """

    def agree(rows: np.ndarray) -> bool:
        return both.compare("", {name: rows}).right

    every = list(range(rows.shape[1]))
    if agree(rows) or not agree(whole := _with_whole_numbers(rows, every, random)):
        return []
    if len(every) > _MOST_COLUMNS:
        return every
    return [column for column in every if not agree(_replaced(whole, rows, column))]


def _nullable(both: _Both, name: str, rows: np.ndarray) -> list[int]:
    """The columns in which the original accepts missing values."""

    def takes(columns: Sequence[int]) -> bool:
        request = rows.copy()
        request[:, columns] = np.nan
        return both.takes({name: request})

    every = list(range(rows.shape[1]))
    if takes(every):
        return every
    return [column for column in every if takes([column])] if len(every) <= _MOST_COLUMNS else []


def _with_whole_numbers(rows: np.ndarray, columns: Sequence[int], random: np.random.Generator) -> np.ndarray:
    made = rows.copy()
    made[:, columns] = random.integers(0, _WHOLE, (len(rows), len(columns)))
    return made


def _with(rows: np.ndarray, value: float, columns: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """The rows with a value put into a share of the cells in these columns, at least one in each row."""
    made = rows.copy()
    if not len(columns):
        return made
    chosen = random.random((len(rows), len(columns))) < _SHARE
    chosen[np.arange(len(rows)), random.integers(0, len(columns), len(rows))] = True
    part = made[:, columns]
    part[chosen] = value
    made[:, columns] = part
    return made


def _around(rows: np.ndarray, thresholds: dict[int, np.ndarray], random: np.random.Generator) -> np.ndarray:
    """The rows with values on both sides of the thresholds in each column, but not too close to any of them."""
    made = rows.copy()
    for column, limits in thresholds.items():
        ends = [limits[0] - max(1, abs(limits[0])), *limits, limits[-1] + max(1, abs(limits[-1]))]
        middles = (np.array(ends[1:]) + np.array(ends[:-1])) / 2
        apart = np.abs(np.diff(ends)) > 1e-5 * np.abs(middles)  # distinct also in float32
        made[:, column] = random.choice(middles[apart], len(made))
    return made


def _replaced(rows: np.ndarray, by: np.ndarray, column: int) -> np.ndarray:
    made = rows.copy()
    made[:, column] = by[:, column]
    return made


def _listed(columns: Sequence[int]) -> str:
    """The first columns, for a message."""
    named = ", ".join(map(str, columns[:8])) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
    return f"column{'s' if len(columns) > 1 else ''} {named} counted from 0"


def _clear(expected: Sequence[np.ndarray], *, of_one: bool) -> np.ndarray | None:
    """For outputs with labels and scores, the rows whose label does not depend on rounding; None for other outputs.

    Args:
        expected: the label and the scores.
        of_one: whether the sign of a single score determines the label, as in outlier detection.
    """
    if len(expected) != 2:
        return None
    scores = np.asarray(expected[1])
    if scores.dtype.kind != "f" or scores.ndim not in {1, 2}:
        return None
    tied: np.ndarray
    if scores.ndim == 1 or scores.shape[1] == 1:
        if not of_one:
            return None
        sizes = np.abs(scores.reshape(-1))
        tied = sizes <= _TIED * np.max(sizes, initial=1, where=np.isfinite(sizes))
    else:
        first, second = np.sort(scores, axis=1)[:, :-3:-1].T
        tied = first - second <= _TIED
    return ~tied  # NaN is not a tie, either


def _like(truth: np.ndarray, array: np.ndarray) -> np.ndarray:
    """The original's answer in the dtype and form of the ONNX model's answer."""
    truth = np.asarray(truth)
    if array.ndim == truth.ndim + 1 and array.shape[-1] == 2:  # only the second class's probability
        truth = np.stack([1 - truth, truth], axis=-1)
    if array.dtype.kind == "O":
        return np.array([str(item) for item in truth.reshape(-1)], object).reshape(truth.shape)
    if truth.size == array.size:
        truth = truth.reshape(array.shape)
    return truth.astype(array.dtype)
