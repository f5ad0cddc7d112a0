"""The run-time proof: rows of different magnitudes, computed alone, together, and reordered in a larger batch.

It runs on the engine and in the precision that will serve, because engines transform graphs in their own ways. A
difference proves that rows depend on each other; no difference proves the opposite for these inputs only, so the graph
must agree before a model is batched (`runtime/rows.py`).

These are differences: another shape or dtype; another integer, boolean or string; and a floating-point value further
from the row's own answer than rounding explains. Kernels sum in another order for another batch size, so values need
not be equal bit for bit. Rounding explains a share of the largest magnitude in that row's output (`_TOLERANCES`). Where
a row exceeds it, the row is computed again in ways that change its answer by rounding only: alone, with its inputs
changed by a few units in the last place, and among copies of itself, where only small differences count, because a
model whose rows depend on each other answers differently among copies, too. A model that amplifies rounding (a sum that
nearly cancels, an arg-max between equals, a quantiser at the edge of a step) then differs by about as much, which
proves nothing about other rows.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailcut.engines.base import Arrays, Engine
from tailcut.engines.hints import Hinted
from tailcut.engines.samples import Samples, find_samples, likely_samples
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.runtime.rows import RowDecision, RowsSetting, decide_rows, needs_proof
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows

_log = logging.getLogger("tailcut")
_PROOF_S = 3.0
_MANY = 8  # rows of the larger batch; like the smaller size, one that warm-up computes as well
# The largest row sets a scale over the whole batch (dynamic int8, batch statistics), which shows in the smallest.
_MAGNITUDES = (1.0, 50.0, 0.1, 200.0)
_ORDER = (2, 0, 3, 1)
_FLOATS = {DType.FP16, DType.BF16, DType.FP32, DType.FP64}
# Shares of the largest magnitude in a row's output. float32 kernels differed by 1e-6 to 1e-4 between batch sizes;
# bfloat16 keeps 8 bits (1 part in 256 at each layer) and float16 keeps 11 (1 part in 2,048), and both add up by layer.
_COMPUTED = {"bf16": DType.BF16, "f16": DType.FP16, "tf32": DType.FP16}  # the types of engines that are set so
_TOLERANCES = {DType.BF16: 5e-2, DType.FP16: 1e-2}
_TOLERANCE = 1e-3
_DISTURBANCE = {DType.BF16: 2.0**-7, DType.FP16: 2.0**-10, DType.FP32: 2.0**-21, DType.FP64: 2.0**-50}
_DISTURBED = 8  # how often a row that differs is computed again
_SMALL = 2e-2  # the largest difference among copies that may be rounding, as a share of the row's magnitude
_AMPLIFIED = 8.0  # a difference up to this multiple of that from disturbed inputs may be rounding

Outputs = Mapping[str, np.ndarray]


def settle_rows(engine: Engine, user: RowsSetting, samples: Samples | None = None) -> RowDecision:
    """Decide whether the rows of a loaded model are independent, and note that in its spec.

    The proof uses these samples, or any that the model accepts where none are given. Sizes of outputs in the file that
    a real answer does not have become free in the spec.

    Raises:
        UnsupportedError: the user asks for batching, but the signature rules it out.
    """
    proof = None
    if needs_proof(engine.spec, user):
        proof = prove_rows(engine, _PROOF_S, samples)
    elif engine.spec.single and engine.spec.fixed_rows:
        _open_by_an_answer(engine, samples)
    wrong = [f"{tensor.name!r} {tensor.written}" for tensor in engine.spec.outputs if tensor.declared is not None]
    if wrong:
        _log.warning("%s: outputs may have other sizes than the file declares: %s", engine.spec.name, ", ".join(wrong))
    decision = decide_rows(engine.spec, proof, user)
    if decision.warning:
        _log.warning("%s: %s", engine.spec.name, decision.warning)
    engine.spec = replace(engine.spec, rows=decision.rows, rows_reason=decision.reason)
    return decision


def prove_rows(engine: Engine, budget_s: float, samples: Samples | None = None, *, seed: int = 0) -> RowEvidence:
    """Compute generated rows alone and together, within about `budget_s`, and compare the outputs.

    Steps for which there is no time are skipped, and the reason says so. Finding out whether a difference is rounding
    may take as long again.
    """
    end = time.monotonic() + budget_s
    try:
        samples = samples or find_samples(engine, seed=seed, budget_s=budget_s)
    except UnsupportedError as error:
        return RowEvidence(Rows.UNKNOWN, str(error))
    return _Proof(engine, samples, end, seed, latest=end + budget_s).run()


def open_outputs(engine: Engine, answer: Outputs) -> None:
    """Make the sizes of outputs free in an engine's spec in which this answer differs."""
    spec = engine.spec
    if not all(tensor.accepts(answer[tensor.name].shape) for tensor in spec.outputs):
        outputs = (
            tensor if tensor.accepts(answer[tensor.name].shape) else tensor.opened(answer[tensor.name].shape)
            for tensor in spec.outputs
        )
        engine.spec = replace(spec, outputs=tuple(outputs))


def _open_by_an_answer(engine: Engine, samples: Samples | None) -> None:
    """Open outputs by one answer, where the file gives all sizes of a request."""
    samples = samples or likely_samples(engine.spec, engine.hints if isinstance(engine, Hinted) else None)
    try:
        open_outputs(engine, engine.run(samples.make(samples.rows, 0)))
    except TailcutError:  # warm-up tries other requests, and logs it if they fail
        return


@dataclass(frozen=True, slots=True)
class _Difference:
    """A difference between a row's answer in a batch and its answer alone."""

    output: str
    what: str
    by: float = 0.0  # the largest difference of floating-point values, as a share of the row's largest magnitude
    elements: np.ndarray | None = None  # which elements differ, in an output that must be equal


class _Proof:
    def __init__(self, engine: Engine, samples: Samples, end: float, seed: int, *, latest: float) -> None:
        self._engine = engine
        self._spec = engine.spec
        self._samples = samples
        self._end = end
        self._latest = latest
        self._is_late = False  # there was no time to find out whether a difference is rounding
        self._seed = seed
        self._row_s = 0.0  # the last time of a row alone
        self._tolerance = _tolerance(engine)
        self._rows: list[Arrays] = []
        self._alone: list[Outputs] = []

    def run(self) -> RowEvidence:
        """Take all steps, as far as there is time."""
        fault = self._compute_alone()
        if fault is not None:
            return fault
        count = len(self._rows)
        if count < 2:
            return RowEvidence(Rows.UNKNOWN, f"a row takes {self._row_s:.2g} s, too long to compute several in time")
        fault = self._compare(range(count))
        if fault is not None:
            return fault
        proven = f"{count} rows give the same outputs alone and together"
        many = self._spec.within(_MANY)
        if not self._has_time(many):
            return RowEvidence(Rows.INDEPENDENT, f"{proven}; a row takes {self._row_s:.2g} s: no time for more")
        fault = self._compare([-1] * (many - count) + [index for index in _ORDER if index < count])
        if fault is not None:
            return fault
        return RowEvidence(Rows.INDEPENDENT, f"{proven}, and in another order among {many}")

    def _compute_alone(self) -> RowEvidence | None:
        """Compute each row alone, and the first twice: a model whose answers vary proves nothing."""
        spec = self._spec
        for index, magnitude in enumerate(_MAGNITUDES[: spec.within(len(_MAGNITUDES))]):
            if self._rows and not self._has_time(3 * len(self._rows)):
                break
            row = _scaled(spec, self._samples.make(1, self._seed + index), magnitude)
            try:
                answer = self._run(row)
            except TailcutError as error:
                if not self._rows:
                    return RowEvidence(Rows.UNKNOWN, f"a generated row is rejected: {error}")
                continue  # the model rejects this magnitude
            if not self._rows:
                open_outputs(self._engine, answer)
            for name, array in answer.items():
                if array.shape[:1] != (1,):
                    return _dependent(f"output {name!r} has {_rows_of(array)} for 1 row of input")
            if not self._rows:
                for again in self._differences(answer, self._run(row), 0):
                    return _dependent(f"output {again.output!r} differs between two calls with the same input")
            self._rows.append(row)
            self._alone.append(answer)
        return None

    def _compare(self, places: Sequence[int]) -> RowEvidence | None:
        """Compute these rows in one batch (-1: any other row), and compare each with its answer alone."""
        fill = 1000
        parts: list[Arrays] = []
        for index in places:
            parts.append(self._rows[index] if index >= 0 else self._samples.make(1, self._seed + fill))
            fill += index < 0
        inputs = {name: np.concatenate([part[name] for part in parts]) for name in self._spec.input_names}
        try:
            outputs = self._run(inputs)
        except TailcutError as error:
            return _dependent(f"{len(places)} rows are rejected together, but accepted one by one: {error}")
        for name, array in outputs.items():
            if array.shape[:1] != (len(places),):
                return _dependent(f"output {name!r} has {_rows_of(array)} for {len(places)} rows of input")
        for at, index in enumerate(places):
            if index < 0:
                continue
            for difference in self._differences(self._alone[index], outputs, at):
                if not self._is_rounding(index, difference, len(places)):
                    by = f" by {difference.by:.2g} of its magnitude" if 0 < difference.by < float("inf") else ""
                    late = f"; a row takes {self._row_s:.2g} s: no time to rule out rounding" if self._is_late else ""
                    return _dependent(
                        f"output {difference.output!r} of a row {difference.what} with {len(places)} rows{by}{late}"
                    )
        return None

    def _differences(self, alone: Outputs, together: Outputs, at: int) -> Iterator[_Difference]:
        """Yield the outputs in which row `at` of a batch differs from the row's answer alone."""
        for name, want in alone.items():
            got = together[name][at : at + 1]
            if got.dtype != want.dtype or got.shape != want.shape:
                what = f"is {want.dtype} {list(want.shape)} alone and {got.dtype} {list(got.shape)}"
                yield _Difference(name, what, by=float("inf"))
            elif not _is_float(want):
                if not np.array_equal(want, got):
                    yield _Difference(name, "changes", elements=want != got)
            else:
                by = _distance(want, got)
                if by > self._tolerance:
                    yield _Difference(name, "changes", by)

    def _is_rounding(self, index: int, difference: _Difference, rows: int) -> bool:
        """Whether the row's answer also changes by about as much where only rounding can change it.

        False where there is no time to find out.
        """
        want = self._alone[index][difference.output]
        try:
            others = list(self._disturbed_answers(index, difference.output))
            if difference.elements is not None:
                changed = [other != want for other in others if other.shape == want.shape]
                return bool(changed) and bool((np.any(changed, axis=0) | ~difference.elements).all())
            copies = self._copies(index, rows)
        except TailcutError:
            return False
        moved = [_distance(want, other) for other in others]
        apart = [_distance(want, answer[difference.output]) for answer in copies]
        most = max([by for by in moved if by < float("inf")] + [by for by in apart if by <= _SMALL], default=0.0)
        return difference.by <= _AMPLIFIED * most

    def _disturbed_answers(self, index: int, output: str) -> Iterator[np.ndarray]:
        """Yield an output of a row alone, its floating-point inputs changed slightly; nothing where there are none."""
        row = self._rows[index]
        random = np.random.default_rng(self._seed)
        for _ in range(_DISTURBED if any(map(_is_float, row.values())) else 0):
            if not self._has_time_for_rounding(1):
                return
            yield self._run(_disturbed(self._spec, row, random))[output]

    def _copies(self, index: int, rows: int) -> list[Outputs]:
        """The answers to a row among copies of itself."""
        if not self._has_time_for_rounding(rows):
            return []
        outputs = self._run({name: np.repeat(array, rows, axis=0) for name, array in self._rows[index].items()})
        return [{name: array[at : at + 1] for name, array in outputs.items()} for at in range(rows)]

    def _run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        began = time.monotonic()
        outputs = self._engine.run(inputs)
        self._row_s = (time.monotonic() - began) / len(next(iter(inputs.values())))
        return outputs

    def _has_time(self, rows: int) -> bool:
        return time.monotonic() + rows * self._row_s <= self._end

    def _has_time_for_rounding(self, rows: int) -> bool:
        self._is_late = self._is_late or time.monotonic() + rows * self._row_s > self._latest
        return not self._is_late


def _tolerance(engine: Engine) -> float:
    """The share of a row's magnitude that rounding explains, by the coarsest type involved."""
    types = [tensor.dtype for tensor in engine.spec.inputs + engine.spec.outputs]
    if engine.options.precision in _COMPUTED:
        types.append(_COMPUTED[engine.options.precision])
    return max(_TOLERANCES.get(dtype, _TOLERANCE) for dtype in types)


def _scaled(spec: ModelSpec, row: Arrays, magnitude: float) -> dict[str, np.ndarray]:
    """A row with its floating-point inputs at another magnitude."""
    return {
        tensor.name: (row[tensor.name] * magnitude).astype(tensor.dtype.numpy)
        if tensor.dtype in _FLOATS
        else row[tensor.name]
        for tensor in spec.inputs
    }


def _disturbed(spec: ModelSpec, row: Arrays, random: np.random.Generator) -> dict[str, np.ndarray]:
    """A row with its floating-point inputs changed by a few units in the last place."""
    disturbed = dict(row)
    for tensor in spec.inputs:
        if tensor.dtype in _FLOATS:
            wide = row[tensor.name].astype(np.float64)
            noise = 1 + _DISTURBANCE[tensor.dtype] * random.uniform(-1, 1, wide.shape)
            disturbed[tensor.name] = (wide * noise).astype(tensor.dtype.numpy)
    return disturbed


def _distance(want: np.ndarray, got: np.ndarray) -> float:
    """The largest difference, as a share of the largest finite magnitude in `want`; infinite if NaN or infinity differ.

    All types are compared in float64, which is at least as wide.
    """
    if want.shape != got.shape:
        return float("inf")
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    difference = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(a[finite]).max())
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype == DType.BF16.numpy


def _rows_of(array: np.ndarray) -> str:
    return f"{array.shape[0]} rows" if array.ndim else "no rows"


def _dependent(reason: str) -> RowEvidence:
    return RowEvidence(Rows.DEPENDENT, f"at run time, {reason}")
