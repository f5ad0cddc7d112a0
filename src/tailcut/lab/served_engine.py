"""Asks a server about a model's engine: its threads, whether they spin, and the total time of its calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tailcut.errors import TailcutError
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask
from tailcut.wire.v2.call import model_path

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """How a model is computed; `spins` is None where the server does not say, as for servers other than Tailcut.

    For a pipeline, `threads` has those of each step that the server itself computes, by name; for a model, there is one
    step without a name.
    """

    threads: Mapping[str, int] = field(default_factory=lambda: {"": 1})
    spins: bool | None = None

    def in_calls_ns(self, since: Mapping[str, int]) -> int:
        """The time of all threads in calls, in nanoseconds, for the duration of the calls by step."""
        return sum(ns * self.threads.get(step, 0) for step, ns in since.items())


def served_engine(target: LoadTarget, model: str) -> ServedEngine:
    """Read the engine from the model's configuration."""

    def by_http() -> dict[str, str]:
        parameters = ask(target, "GET", model_path(model) + "/config")["parameters"]
        return {name: value["string_value"] for name, value in parameters.items()}

    def by_grpc() -> dict[str, str]:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        parameters = ask_grpc(target, "ModelConfig", name=model).config.parameters
        return {name: value.string_value for name, value in parameters.items()}

    metadata = _or_none(by_grpc if target.grpc else by_http) or {}
    spins = metadata.get("engine_spins")
    return ServedEngine(_threads(metadata), None if spins is None else spins == "true")


def _threads(metadata: Mapping[str, str]) -> dict[str, int]:
    steps = metadata.get("step_threads")
    if steps is None:
        threads = metadata.get("engine_threads", "")
        return {"": int(threads) if threads.isdigit() else 1}
    parts = [step.rpartition("=") for step in steps.split(",")]
    return {name: int(threads) for name, _, threads in parts if threads.isdigit()}


def computed_ns(target: LoadTarget, model: str) -> dict[str, int] | None:
    """The total time of calls for a model, or for each step of a pipeline, in nanoseconds; None where unknown.

    gRPC's message has no field for steps, so it is unknown for pipelines there.
    """

    def by_http() -> dict[str, int]:
        (entry,) = ask(target, "GET", model_path(model) + "/stats")["model_stats"][:1]
        steps = {stage["name"]: stage for stage in entry.get("stages", ())} or {"": entry}
        return {
            name: sum(int(batch["compute_infer"]["ns"]) for batch in step["batch_stats"])
            for name, step in steps.items()
        }

    def by_grpc() -> dict[str, int] | None:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        entry = ask_grpc(target, "ModelStatistics", name=model).model_stats[0]
        if entry.execution_count and not entry.batch_stats:
            return None
        return {"": sum(int(batch.compute_infer.ns) for batch in entry.batch_stats)}

    return _or_none(by_grpc if target.grpc else by_http)


def _or_none(read: Callable[[], _Answer]) -> _Answer | None:
    """The answer; None where there is none, or one of another form, because not every server has every extension."""
    try:
        return read()
    except (TailcutError, LookupError, TypeError, ValueError, AttributeError):
        return None
