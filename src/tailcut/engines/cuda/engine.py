"""An exported program on a device: a batch is copied in, computed by a captured graph of its bucket, and copied out.

Each call takes a staging slot, of which there is one more than instances unless the settings say otherwise: so the
input of a batch, the computing of the one before it and the output of the one before that overlap. Batches wait for
each other only where they share a slot.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.compilers import need_compiler
from tailcut.engines.cuda.buckets import GraphKey, bucket_of
from tailcut.engines.cuda.device import Cuda, Device, Graph, NotCapturedError, products_in
from tailcut.engines.cuda.faults import device_error
from tailcut.engines.cuda.staging import Slot, State
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.phases import PhaseTimes
from tailcut.engines.samples import find_samples
from tailcut.engines.torch import passes
from tailcut.engines.torch.compiling import compiled, compiling, first_sizes
from tailcut.engines.torch.engine import as_array, as_tensor, use_threads
from tailcut.engines.torch.program import Program, read_program
from tailcut.errors import ModelFileError, ReleasedError, TailcutError, UnsupportedError

_log = logging.getLogger("tailcut")
_LOWER = {"bf16": torch.bfloat16, "f16": torch.float16}
_MOST_SHAPES = 64  # that a slot has memory and graphs for


class CudaEngine:
    """A program with its parameters on a device."""

    def __init__(
        self, path: Path, options: EngineOptions, name: str | None = None, device: Device | None = None
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
        self._program: Program | None = program
        try:
            self._module = self._on_device(program)
        except torch.cuda.OutOfMemoryError:
            raise ModelFileError(f"{path}: the model does not fit into the device's memory") from None
        self._bucket_of = bucket_of(options.cuda.buckets)
        self._graphs: dict[GraphKey, Graph] = {}
        self._memory: dict[GraphKey, list[Any]] = {}  # that the graphs read
        self._captures = options.cuda.graphs
        self._capturing = threading.Lock()
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for number in range(options.cuda.slots or max(options.instances, 1) + 1):
            self._slots.put(Slot(number))
        if options.compiler == "inductor":
            self._compile(path)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._open()
        check_arrays(self.spec, inputs, outputs)
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
        results = self._compute([as_tensor(array) for array in held], None)
        return {
            tensor.name: as_array(tensor, result) for tensor, result in zip(self.spec.outputs, results, strict=True)
        }

    def close(self) -> None:
        """See `Engine.close`."""
        self._program = None
        self._graphs.clear()
        self._memory.clear()
        self._module = None
        self._device.unpin()

    def _compile(self, path: Path) -> None:
        """Compile, and have it done before the first request; what is compiled is captured like what is not.

        Raises:
            UnsupportedError: what PyTorch compiles with is not here.
            ModelFileError: PyTorch cannot compile the program.
        """
        need_compiler("inductor", self._device.name.type)
        with compiling(path):
            samples = find_samples(self)  # on the program as it is
            self._graphs.clear()
            self._module = compiled(self._module)
            for rows in first_sizes(self.spec):
                self.run(samples.make(max(rows, samples.rows), seed=0))

    def _compute(self, ins: Sequence[Any], outs: Sequence[Any] | None) -> Sequence[Any]:
        """One batch; its outputs are copied into `outs`, or into fresh memory where there is none."""
        self._open()
        use_threads(self.options.threads)  # another count than when it was compiled would compile it anew
        slot = self._slots.get()
        try:
            with torch.inference_mode():
                return self._staged(slot, ins, outs)
        except Exception as error:  # programs raise errors of all kinds
            if slot.state is not State.FREE:
                slot.lose()
            elif isinstance(error, TailcutError):
                raise  # the device was given nothing
            self._device.recover()
            if isinstance(error, TailcutError):
                raise
            raise device_error(error, "PyTorch") from None
        finally:
            if slot.state is State.LOST:
                slot.move(State.FREE)
            self._slots.put(slot)

    def _staged(self, slot: Slot, ins: Sequence[Any], outs: Sequence[Any] | None) -> Sequence[Any]:
        rows = len(ins[0]) if self.spec.batched else 0
        shapes = tuple((self._bucket_of(rows), *one.shape[1:]) if rows else tuple(one.shape) for one in ins)
        key = GraphKey(slot.number, shapes)
        memory = self._input(slot, key, ins)
        events: dict[State, Any] = {}
        end = slot.stale(key, rows)
        began = time.perf_counter_ns()
        slot.move(State.COPYING_IN)
        self._device.enqueue(State.COPYING_IN, events, lambda: _fill(memory, ins, rows, end))
        slot.move(State.COMPUTING)
        graph = self._graph(key, memory)
        self._device.enqueue(State.COMPUTING, events, graph.replay)
        slot.move(State.COPYING_OUT)
        kept = [result[:rows] if rows else result for result in graph.results]
        targets = outs or [torch.empty(one.shape, dtype=one.dtype) for one in kept]
        self._device.enqueue(State.COPYING_OUT, events, lambda: _copy(targets, kept))
        launch_us = (time.perf_counter_ns() - began) / 1e3
        self._device.wait(events)
        copy_in_us, compute_us, copy_out_us = self._device.elapsed_us(events)
        self.phases.record(copy_in_us, launch_us, compute_us, copy_out_us)
        if not self.options.cuda.caching:
            self._device.give_back()
        slot.move(State.FREE)
        return targets

    def _input(self, slot: Slot, key: GraphKey, ins: Sequence[Any]) -> list[Any]:
        """The memory of a bucket's inputs in a slot that is taken, so that the device uses none of its others."""
        memory = self._memory.get(key)
        if memory is None:
            mine = [one for one in list(self._memory) if one.slot == slot.number]
            for one in mine if len(mine) >= _MOST_SHAPES else ():
                self._memory.pop(one, None)
                self._graphs.pop(one, None)
                slot.filled.pop(one, None)
            memory = [self._device.zeros(shape, one.dtype) for one, shape in zip(ins, key.shapes, strict=True)]
            self._memory[key] = memory
        return memory

    def _graph(self, key: GraphKey, memory: Sequence[Any]) -> Graph:
        """The captured graph of a bucket; the first batch of a bucket captures it."""
        graph = self._graphs.get(key)
        if graph is None:
            arguments = self._open().arguments(memory)
            with self._capturing:
                graph = self._captured(lambda: self._module(*arguments), self._pool(key.slot))
                self._graphs[key] = graph
        return graph

    def _pool(self, slot: int) -> Any:
        """The memory of a slot's graphs, where they share it; the output of one is gone once the next is computed."""
        if self.options.cuda.graph_memory == "private":
            return None
        return next((self._graphs[key].pool for key in list(self._graphs) if key.slot == slot), None)

    def _captured(self, compute: Callable[[], Sequence[Any]], pool: Any) -> Graph:
        """A graph, or what launches operator after operator; the kernels are those of the precision."""
        tf32 = self.options.precision == "tf32"
        if self._captures:
            try:
                with products_in(tf32=tf32):
                    return self._device.capture(compute, pool)
            except NotCapturedError as error:
                self._captures = False
                self._device.recover()
                _log.warning("%s: computed without CUDA graphs: %s", self.spec.name, error)
        results: list[Any] = []

        def launch() -> None:
            with products_in(tf32=tf32):
                results[:] = compute()

        return Graph(launch, results)

    def _on_device(self, program: Program) -> Any:
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

    def _open(self) -> Program:
        if self._program is None:
            raise ReleasedError("the engine was closed")
        return self._program


def _fill(memory: Sequence[Any], ins: Sequence[Any], rows: int, end: int) -> None:
    """Copy the rows in; what an earlier batch left behind them becomes zeros, so that nothing is computed from it."""
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
