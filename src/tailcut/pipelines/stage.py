"""Declares stages, Python functions with their tensors and settings, and pipelines of stages and models. Pure."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tailcut.errors import ArgumentTypeError, UsageError
from tailcut.pipelines.tensors import parse_fill, parse_tensors
from tailcut.spec import ModelSpec, Rows, TensorSpec

Function = Callable[..., Any]
_Settings = ParamSpec("_Settings")
_Made = TypeVar("_Made")
_NAME = re.compile(r"[\w.-]+", re.ASCII)  # usable in a URL
_MOST_WORKERS = 256
_MOST_BATCH = 65536
_VARIADIC = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}


@dataclass(frozen=True, slots=True)
class Stage:
    """One Python step of a pipeline. Made by `stage`; calling it calls the function.

    Args:
        function: takes an array for each input, with all rows of a batch, and returns an array for each output.
        name: name in messages, statistics and metrics.
        inputs, outputs: its tensors, with the batch as the first, free dimension.
        by_name: whether the function takes its inputs by name; otherwise in order.
        workers: number of processes, or threads, that run it at the same time.
        max_batch_size: the most rows per call.
        timeout_s: time limit of a call in seconds, after which its process is killed.
        threads: run on threads of the server's process instead of processes.
        cpus: CPUs that the processes are pinned to, in turn; empty: none.
        fill: for each output with a free dimension, the value that pads its shorter rows; empty: the function is
            called once for each request, and pads its rows itself.
        max_queue_delay_us: how long a request waits for others while a worker is idle; only a profile sets it.
        together: the rows of a request belong together: the function is called once for each request, with all rows.
    """

    function: Function
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    by_name: bool
    workers: int = 1
    max_batch_size: int = 32
    timeout_s: float = 10.0
    threads: bool = False
    cpus: tuple[int, ...] = ()
    fill: Mapping[str, Any] = field(default_factory=dict)
    max_queue_delay_us: int = 0
    together: bool = False

    @property
    def whole_requests(self) -> bool:
        """Whether a request counts as one and is never split: its rows belong together, or differ in size."""
        return self.together or any(None in tensor.row_shape for tensor in self.outputs)

    @property
    def per_request(self) -> bool:
        """Whether the function is called once for each request.

        Otherwise the rows of several requests would be padded to one length, and answers would depend on the batch.
        """
        return self.whole_requests and not self.fill

    @property
    def spec(self) -> ModelSpec:
        """Its signature as that of a model."""
        return ModelSpec(self.name, self.inputs, self.outputs, Rows.INDEPENDENT, "a stage's rows are")

    @property
    def signature(self) -> str:
        """Its tensors and fill as text, to check that a process has loaded the same stage."""
        sides = [
            ", ".join(f"{tensor.name!r}: {tensor.describe()}" for tensor in side)
            for side in (self.inputs, self.outputs)
        ]
        whole = ", whole requests" if self.together else ""
        return f"{self.name}: {' -> '.join(sides)}, fill {sorted(self.fill.items())}{whole}"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function itself, as a unit test of it does."""
        return self.function(*arguments, **named)


def _not_bare(make: Callable[_Settings, _Made]) -> Callable[_Settings, _Made]:
    """Have a bare `@stage`, without arguments, raise an error that says what to write."""

    @wraps(make)
    def called(*functions: _Settings.args, **settings: _Settings.kwargs) -> _Made:
        if functions:
            title = getattr(functions[0], "__name__", type(functions[0]).__name__)
            raise ArgumentTypeError(f"stage {title!r}: write @stage(inputs=..., outputs=...): all arguments have names")
        return make(*functions, **settings)

    return called


@_not_bare
def stage(  # noqa: PLR0913  all settings of a stage
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    name: str | None = None,
    workers: int = 1,
    max_batch_size: int = 32,
    timeout_s: float = 10.0,
    threads: bool = False,
    cpus: Sequence[int] = (),
    fill: Mapping[str, float | str | bytes] | None = None,
    whole_requests: bool = False,
) -> Callable[[Function], Stage]:
    """Make a function a step of a pipeline.

    The function gets a numpy array for each input, with the rows of all requests of a batch along the first axis, and
    returns as many rows for each output: one array where there is one output, else a tuple in order or a dict by name.
    Elements of BYTES are `bytes`; results may also contain `str`. If an output has a free dimension, such as
    "INT64[-1]", the function is called once for each request instead, so that no answer depends on other requests. With
    `fill`, it is called for all rows, and returns for such an output a list with an array or list for each row; the
    rows of each request are then padded to that request's longest. With `whole_requests`, it is also called once for
    each request: for answers to a row that depend on the other rows of the request, such as a ranking.

    If the function raises InvalidInputError (whose message reaches the client) or ValueError, the request fails with
    status 400, otherwise with 500.

    Args:
        inputs, outputs: dtype and shape of one row, by name: {"text": "BYTES", "ids": "INT64[-1]"}.
        name: name in messages, statistics and metrics; None: that of the function.
        workers: number of processes (or threads) that run it, 1 to 256.
        max_batch_size: the most rows per call, 1 to 65536; if the function is called once for each request, the most
            requests that are sent to a process at a time.
        timeout_s: time limit of a call in seconds, after which it fails and its process is killed.
        threads: run on threads in the server's process: for a function that mostly releases the GIL. A thread cannot
            be killed: a call that hangs keeps its thread until it returns.
        cpus: CPUs that the processes are pinned to, in turn; empty: none.
        fill: for each output with a free dimension, the value that pads its shorter rows.
        whole_requests: the rows of a request belong together: requests are neither merged nor split.

    Raises:
        ArgumentTypeError: `@stage` was written without arguments.
        UsageError: an argument is not valid, the function does not take as many arrays as there are inputs, or it is
            an async function, a generator or a class.
    """

    def make(function: Function) -> Stage:
        if not callable(function):
            raise UsageError(f"@stage is for functions, not for {type(function).__name__}")
        title = str(name or getattr(function, "__name__", type(function).__name__))
        if not title.isprintable():
            raise UsageError(f"stage {title!r}: a name must not have control characters or half of a surrogate pair")
        _check_kind(title, function)
        _check(title, "workers", workers, _MOST_WORKERS)
        _check(title, "max_batch_size", max_batch_size, _MOST_BATCH)
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 86400:
            raise UsageError(f"stage {title!r}: timeout_s is {timeout_s!r}, must be greater than 0 and at most a day")
        _check_whole(title, whole_requests, fill)
        _check_threads(title, threads)
        pins = _check_cpus(title, cpus)
        takes = parse_tensors(title, "inputs", inputs)
        gives = parse_tensors(title, "outputs", outputs)
        free = {tensor.name: tensor for tensor in gives if None in tensor.row_shape}
        if fill is not None and not isinstance(fill, Mapping):
            raise UsageError(f"stage {title!r}: fill must be a dict of a value for each output, not {fill!r}")
        if fill is not None and set(fill) != set(free):
            raise UsageError(f"stage {title!r}: fill must have a value for each output of a free size: {[*free]}")
        filling = {name: parse_fill(title, free[name], value) for name, value in (fill or {}).items()}
        by_name = _is_by_name(title, function, [tensor.name for tensor in takes])
        return Stage(
            function,
            title,
            takes,
            gives,
            by_name,
            workers,
            max_batch_size,
            float(timeout_s),
            threads,
            pins,
            filling,
            together=whole_requests,
        )

    return make


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A sequence of stages and models under one name.

    Each step takes its inputs by name, from the latest earlier step that has such an output, or from the request. The
    pipeline's inputs are those of its first step, and its outputs those of its last.

    Args:
        name: name for clients.
        steps: functions made with `stage`, and paths of profiles (.toml) or models (.onnx), relative to the file that
            the pipeline is in.
        processes: run all steps in each of this many processes, which get whole batches; 0: each step runs by itself.
    """

    name: str
    steps: Sequence[Stage | str | Path]
    processes: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UsageError(f"a pipeline's name must consist of letters, digits, '_', '.' and '-', not {self.name!r}")
        given: Any = self.steps
        steps = () if isinstance(given, str | Path) or not isinstance(given, Iterable) else tuple(given)
        if not steps:
            raise UsageError(f"pipeline {self.name!r}: the steps must be a list of stages and models")
        object.__setattr__(self, "steps", steps)
        if type(self.processes) is not int or not 0 <= self.processes <= _MOST_WORKERS:
            raise UsageError(
                f"pipeline {self.name!r}: processes is {self.processes!r}, must be 0 (each step runs by itself) to "
                f"{_MOST_WORKERS}"
            )
        for number, step in enumerate(steps, 1):
            if callable(step) and not isinstance(step, Stage):
                title = getattr(step, "__name__", repr(step))
                raise UsageError(
                    f"pipeline {self.name!r}: step {number}, {title}, is a bare function: add @stage to it"
                )
            if not isinstance(step, Stage | str | Path):
                kind = type(step).__name__
                raise UsageError(f"pipeline {self.name!r}: step {number} is a {kind}, not a stage or a model's path")


def _check(stage: str, setting: str, value: int, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"stage {stage!r}: {setting} is {value!r}, must be 1 to {most}")


def _check_threads(stage: str, threads: object) -> None:
    """Refuse a number of threads, which would be taken as True."""
    if not isinstance(threads, bool):
        number = isinstance(threads, int) and threads > 0
        advice = f": write threads=True, workers={threads}" if number else ", must be True or False"
        raise UsageError(f"stage {stage!r}: threads is {threads!r}{advice}")


def _check_whole(stage: str, whole_requests: object, fill: object) -> None:
    if not isinstance(whole_requests, bool):
        raise UsageError(f"stage {stage!r}: whole_requests is {whole_requests!r}, must be True or False")
    if whole_requests and fill is not None:
        raise UsageError(
            f"stage {stage!r}: with whole_requests, the function is called once for each request and returns arrays: "
            "leave out fill"
        )


def _check_cpus(stage: str, cpus: object) -> tuple[int, ...]:
    numbers = tuple(cpus) if isinstance(cpus, Iterable) else None
    if numbers is None or not all(isinstance(cpu, int) and cpu >= 0 for cpu in numbers):
        given = cpus if numbers is None else [*numbers]
        raise UsageError(f"stage {stage!r}: cpus must be a list of numbers of CPUs, not {given!r}")
    return numbers


def _check_kind(stage: str, function: Function) -> None:
    """Refuse functions that do not return arrays when they are called.

    Raises:
        UsageError: it is an async function, a generator or a class.
    """
    if inspect.isclass(function):
        raise UsageError(f"stage {stage!r}: {function.__name__} is a class: give a function, or an instance to call")
    called = function if inspect.isroutine(function) or isinstance(function, partial) else type(function).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise UsageError(f"stage {stage!r}: the function is async: write def without async, processes wait for it")
    if inspect.isgeneratorfunction(called):
        raise UsageError(f"stage {stage!r}: the function is a generator: return the outputs instead of yielding them")


def _check_order(stage: str, parameters: Sequence[str], names: Sequence[str]) -> None:
    """Refuse positional parameters if one has the name of another input than the one that it would get.

    Raises:
        UsageError: a parameter has; the message names it.
    """
    for index, parameter in enumerate(parameters):
        if parameter in names and names.index(parameter) != index:
            gets = repr(names[index]) if index < len(names) else "nothing"
            raise UsageError(
                f"stage {stage!r}: the function takes ({', '.join(parameters)}), but the inputs are "
                f"{', '.join(names)}: in this order, {parameter!r} would get {gets}: name the parameters as the inputs"
            )


def _is_by_name(stage: str, function: Function, names: Sequence[str]) -> bool:
    """Whether a function takes its inputs by name; otherwise, it takes them in order.

    All wrappers of a decorated function have to accept them in the same way. A function that accepts any arguments gets
    them in order, since what it calls is unknown.

    Raises:
        UsageError: it takes them in neither way, or in order, but a parameter has the name of another input.
    """
    try:
        signatures = _signatures(function)
    except (TypeError, ValueError):  # a function in C: the first call will show it
        return False
    innermost = signatures[-1].parameters
    anything = {parameter.kind for parameter in innermost.values()} == _VARIADIC
    if not anything and all(_binds(signature, **dict.fromkeys(names)) for signature in signatures):
        return True
    if all(_binds(signature, *names) for signature in signatures):
        _check_order(stage, list(innermost), names)
        return False
    raise UsageError(
        f"stage {stage!r}: the function takes ({', '.join(innermost)}), but the inputs are {', '.join(names)}: "
        "give it one parameter for each"
    )


def _signatures(function: Function) -> list[Signature]:
    """The signatures of a function and, while these accept any arguments, of the functions that it wraps.

    Raises:
        TypeError, ValueError: the signature is not known.
    """
    whole = inspect.signature(function)
    result = []
    while True:
        try:
            own = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):  # a decorator in C, such as functools.cache
            break
        result.append(own)
        if _VARIADIC.isdisjoint(parameter.kind for parameter in own.parameters.values()):
            return result
        if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
            break
        function = function.__wrapped__
    return [*result, whole]


def _binds(signature: Signature, *arguments: str, **named: None) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True
