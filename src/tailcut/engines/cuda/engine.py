"""An exported program on a device: a batch is copied in, computed by the captured graph of its bucket, and copied out.

Each call uses a staging slot; by default, there is one more than instances. So the input of a batch, the computation of
the one before, and the output of the one before that overlap. Batches wait for each other only if they share a slot.
"""

import logging
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.compilers import need_compiler
from tailcut.engines.cuda.buckets import GraphKey, bucket_of
from tailcut.engines.cuda.device import ComputeDevice, Cuda, Graph, NotCapturedError, Step, products_in
from tailcut.engines.cuda.faults import Fault, device_error, fault_of
from tailcut.engines.cuda.staging import Slot, SlotState
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.phases import PhaseTimes
from tailcut.engines.samples import find_samples
from tailcut.engines.torch import passes
from tailcut.engines.torch.compiling import compiled, compiler_options, compiling, first_sizes
from tailcut.engines.torch.engine import as_array, as_tensor, use_threads
from tailcut.engines.torch.indices import check_indices
from tailcut.engines.torch.program import Arguments, TorchProgram, read_program
from tailcut.errors import ModelFileError, ReleasedError, TailcutError, UnsupportedError

_log = logging.getLogger("tailcut")
_LOWER = {"bf16": torch.bfloat16, "f16": torch.float16}
_MOST_SHAPES = 64  # for which a slot has memory and graphs
_WARM_UP = 3  # calls before a graph is captured, as in PyTorch's documentation


class CudaEngine:
    """An engine for a program with its parameters on a device."""

    def __init__(
        self, path: Path, options: EngineOptions, name: str | None = None, device: ComputeDevice | None = None
    ) -> None:
        if options.precision not in {"f32", "tf32", "int8", *_LOWER}:
            raise UnsupportedError(
                f"device cuda has no precision {options.precision}: use f32, tf32, bf16, f16 or int8"
            )
        if kind_of(path) is FileKind.SCRIPT:
            raise UnsupportedError(
                f"{path}: TorchScript is computed on the CPU: export it with torch.export.save (.pt2)"
            )
        if options.compiler == "aot_inductor":
            raise UnsupportedError("device cuda has no compiler 'aot_inductor': use 'inductor' or 'eager'")
        self._device = device or Cuda(options.cuda.index)
        self.phases = PhaseTimes()
        self.options = options
        program = read_program(path, options, name)
        self.spec, self.hints = program.spec, program.hints
        self._arguments: Arguments | None = program.arguments
        self._sizes = program.sizes
        try:
            self._module = self._on_device(program)
        except torch.cuda.OutOfMemoryError:
            raise ModelFileError(f"{path}: the model does not fit into the device's memory") from None
        self._bucket_of = bucket_of(options.cuda.buckets)
        self._graphs: dict[GraphKey, Graph] = {}
        self._memory: dict[GraphKey, list[Any]] = {}  # inputs of the graphs
        self._captures = options.cuda.graphs
        self._tf32 = options.precision == "tf32"
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for number in range(options.cuda.slots or max(options.instances, 1) + 1):
            self._slots.put(Slot(number))
        if options.compiler == "inductor":
            self._compile(path)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._open()
        check_arrays(self.spec, inputs, outputs)
        self._sizes.check([inputs[tensor.name].shape for tensor in self.spec.inputs])
        with self._device.gate.launching():
            for array in (*inputs.values(), *outputs.values()) if self.options.cuda.pinned else ():
                self._device.pin(array)
        ins = [as_tensor(inputs[tensor.name]) for tensor in self.spec.inputs]
        outs = [as_tensor(outputs[tensor.name]) for tensor in self.spec.outputs]
        keep = (dict(inputs), dict(outputs))

        def call(_keep: object = keep) -> None:
            self._compute(ins, outs)

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        held = [np.require(inputs[tensor.name], requirements=["C", "W"]) for tensor in self.spec.inputs]
        self._sizes.check([array.shape for array in held])
        results = self._compute([as_tensor(array) for array in held], None)
        return {
            tensor.name: as_array(tensor, result) for tensor, result in zip(self.spec.outputs, results, strict=True)
        }

    def close(self) -> None:
        """See `Engine.close`."""
        self._arguments = None
        self._graphs.clear()
        self._memory.clear()
        self._module = None
        with self._device.gate.launching():
            self._device.unpin()

    def _compile(self, path: Path) -> None:
        """Compile the program before the first request; the result is captured like any other program.

        Raises:
            UnsupportedError: a compiler that PyTorch needs is missing.
            ModelFileError: PyTorch cannot compile the program.
        """
        need_compiler("inductor", self._device.name.type)
        with compiling(path):
            samples = find_samples(self)  # with the uncompiled program
            self._graphs.clear()
            self._module = compiled(self._module, compiler_options(computes_indices=False))
            for rows in first_sizes(self.spec):
                self.run(samples.make(max(rows, samples.rows), seed=0))

    def _compute(self, ins: Sequence[Any], outs: Sequence[Any] | None) -> Sequence[Any]:
        """Compute one batch; its outputs are copied into `outs`, or into new memory where that is None."""
        self._open()
        check_indices(self.spec, self.hints, ins)  # an index out of bounds would make the device unusable
        use_threads(self.options.threads)  # another number than at compilation would compile it again
        slot = self._slots.get()
        try:
            with torch.inference_mode():
                try:
                    return self._staged(slot, ins, outs)
                except Exception as error:  # noqa: BLE001  programs raise errors of all kinds
                    self._recover(slot, error)
                    if fault_of(str(error)) is not Fault.FULL or not self._make_room(slot, self._key(slot, ins)):
                        raise self._named(error) from None
                try:
                    return self._staged(slot, ins, outs)
                except Exception as error:  # noqa: BLE001  as above
                    self._recover(slot, error)
                    raise self._named(error) from None
        finally:
            if slot.state is SlotState.LOST:
                slot.move(SlotState.FREE)
            self._slots.put(slot)

    def _recover(self, slot: Slot, error: Exception) -> None:
        """Make the slot free again after a failure, unless the device is lost."""
        if slot.state is SlotState.FREE:
            if isinstance(error, TailcutError):
                return  # nothing was enqueued
        else:
            slot.lose()
        with self._device.gate.launching():
            self._device.recover()
        if slot.state is SlotState.LOST:
            slot.move(SlotState.FREE)

    @staticmethod
    def _named(error: Exception) -> TailcutError:
        return error if isinstance(error, TailcutError) else device_error(error, "PyTorch")

    def _make_room(self, slot: Slot, kept: GraphKey) -> bool:
        """Free the memory of other shapes in this slot and in free ones; returns whether there was any."""
        slots = [slot]
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        there = False
        for taken in slots:
            for key in [key for key in list(self._memory) if key.slot == taken.number and key != kept]:
                self._forget(taken, key)
                there = True
        for taken in slots[1:]:
            self._slots.put(taken)
        if there:
            with self._device.gate.launching():
                self._device.give_back()
        return there

    def _forget(self, slot: Slot, key: GraphKey) -> None:
        """Drop the memory and the graph of a bucket in a slot that the caller holds."""
        self._memory.pop(key, None)
        self._graphs.pop(key, None)
        slot.filled.pop(key, None)

    def _key(self, slot: Slot, ins: Sequence[Any]) -> GraphKey:
        rows = len(ins[0]) if self.spec.batched else 0
        filled = self.spec.within(self._bucket_of(rows)) if rows else 0
        shapes = tuple((filled, *tensor.shape[1:]) if rows else tuple(tensor.shape) for tensor in ins)
        return GraphKey(slot.number, shapes)

    def _enqueue(self, state: SlotState, events: dict[SlotState, Any], step: Step) -> None:
        with self._device.gate.launching():
            self._device.enqueue(state, events, step)

    def _staged(self, slot: Slot, ins: Sequence[Any], outs: Sequence[Any] | None) -> Sequence[Any]:
        rows = len(ins[0]) if self.spec.batched else 0
        key = self._key(slot, ins)
        memory = self._input(slot, key, ins)
        events: dict[SlotState, Any] = {}
        end = slot.stale(key, rows)
        began = time.perf_counter_ns()
        slot.move(SlotState.COPYING_IN)
        self._enqueue(SlotState.COPYING_IN, events, lambda: _fill(memory, ins, rows, end))
        slot.move(SlotState.COMPUTING)
        graph = self._graph(key, memory, events)
        with nullcontext() if graph.captured else products_in(tf32=self._tf32):
            self._enqueue(SlotState.COMPUTING, events, graph.replay)
        slot.move(SlotState.COPYING_OUT)
        kept = [result[:rows] if rows else result for result in graph.results]
        targets = outs or [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in kept]
        self._enqueue(SlotState.COPYING_OUT, events, lambda: _copy(targets, kept))
        launch_us = (time.perf_counter_ns() - began) / 1e3
        self._device.wait(events)
        copy_in_us, compute_us, copy_out_us = self._device.elapsed_us(events)
        self.phases.record(copy_in_us, launch_us, compute_us, copy_out_us)
        if not self.options.cuda.caching:
            with self._device.gate.launching():
                self._device.give_back()
        slot.move(SlotState.FREE)
        return targets

    def _input(self, slot: Slot, key: GraphKey, ins: Sequence[Any]) -> list[Any]:
        """The memory of a bucket's inputs in a slot that the caller holds, so that the device does not use it."""
        memory = self._memory.get(key)
        if memory is None:
            mine = [old for old in list(self._memory) if old.slot == slot.number]
            for old in mine if len(mine) >= _MOST_SHAPES else ():
                self._forget(slot, old)
            with self._device.gate.launching():
                memory = [
                    self._device.zeros(shape, tensor.dtype) for tensor, shape in zip(ins, key.shapes, strict=True)
                ]
            self._memory[key] = memory
        return memory

    def _graph(self, key: GraphKey, memory: Sequence[Any], events: dict[SlotState, Any]) -> Graph:
        """The captured graph of a bucket; its first batch captures it, unless something is being compiled."""
        graph = self._graphs.get(key)
        if graph is not None:
            return graph
        arguments = self._open().all(memory)
        if self._captures and not self._device.gate.is_warming:
            graph = self._captured(lambda: self._module(*arguments), self._pool(key.slot), events)
        if graph is None:
            graph = _uncaptured(lambda: self._module(*arguments))
        if graph.captured or not self._captures:
            self._graphs[key] = graph
        return graph

    def _pool(self, slot: int) -> Any:
        """The pool that a slot's graphs share, where they do; then the next graph overwrites the output of the last."""
        if self.options.cuda.graph_memory == "private":
            return None
        return next((self._graphs[key].pool for key in list(self._graphs) if key.slot == slot), None)

    def _captured(self, compute: Callable[[], Sequence[Any]], pool: Any, events: dict[SlotState, Any]) -> Graph | None:
        """A graph with kernels for the precision; None where it cannot be captured, or not now."""
        gate = self._device.gate
        with products_in(tf32=self._tf32):
            # Compiling takes minutes; without it, a warm-up takes no longer than any launch.
            with gate.warming() if self.options.compiler == "inductor" else gate.launching():
                self._device.enqueue(SlotState.COMPUTING, events, lambda: _repeat(compute))
            try:
                with gate.capturing() as alone:
                    if alone:
                        return self._device.capture(compute, pool)
            except NotCapturedError as error:
                self._captures = False
                with gate.launching():
                    self._device.recover()
                _log.warning("%s: computed without CUDA graphs: %s", self.spec.name, error)
        return None

    def _on_device(self, program: TorchProgram) -> Any:
        moved = program.exported
        if self._device.name.type != "cpu":
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415  only with a device

            moved = move_to_device_pass(moved, str(self._device.name))
        module = passes.flat(moved, program.outputs)
        if self.options.u8_input is not None:
            module = passes.pixels(module, self.options.u8_input)
        if self.options.layout == "channels_last":
            module = passes.channels_last(module)
        if self.options.precision in _LOWER:
            module = passes.lowered(module, _LOWER[self.options.precision])
        if self.options.precision == "int8":
            module = passes.weights_in_int8(module)
        return module

    def _open(self) -> Arguments:
        if self._arguments is None:
            raise ReleasedError("the engine was closed")
        return self._arguments


def _repeat(compute: Callable[[], Sequence[Any]]) -> None:
    for _ in range(_WARM_UP):
        compute()


def _uncaptured(compute: Callable[[], Sequence[Any]]) -> Graph:
    """A graph that launches operators one by one."""
    results: list[Any] = []

    def launch() -> None:
        results[:] = compute()

    return Graph(launch, results, captured=False)


def _fill(memory: Sequence[Any], ins: Sequence[Any], rows: int, end: int) -> None:
    """Copy the rows in, and zero rows of an earlier batch behind them, so that nothing is computed from these."""
    for device, host in zip(memory, ins, strict=True):
        if not rows:
            device.copy_(host, non_blocking=True)
            continue
        device[:rows].copy_(host, non_blocking=True)
        if end > rows:
            device[rows:end].zero_()


def _copy(targets: Sequence[Any], results: Sequence[Any]) -> None:
    for target, result in zip(targets, results, strict=True):
        if target.shape != result.shape:
            raise RuntimeError(f"an output has the shape {list(result.shape)}, not {list(target.shape)}")
        target.copy_(result, non_blocking=True)
