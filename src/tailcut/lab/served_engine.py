"""What a server says of a model's engine: its threads, whether they spin, and how long its calls took so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tailcut.errors import TailcutError
from tailcut.lab.load import Target
from tailcut.lab.payload import ask
from tailcut.wire.v2.call import model_path

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """How a model is computed; `spins` None where the server does not say, as servers other than Tailcut do not."""

    threads: int = 1
    spins: bool | None = None


def served_engine(target: Target, model: str) -> ServedEngine:
    """Read the model's configuration."""

    def by_http() -> dict[str, str]:
        parameters = ask(target, "GET", model_path(model) + "/config")["parameters"]
        return {name: value["string_value"] for name, value in parameters.items()}

    def by_grpc() -> dict[str, str]:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        parameters = ask_grpc(target, "ModelConfig", name=model).config.parameters
        return {name: value.string_value for name, value in parameters.items()}

    said = _or_none(by_grpc if target.grpc else by_http) or {}
    threads, spins = said.get("engine_threads", ""), said.get("engine_spins")
    return ServedEngine(int(threads) if threads.isdigit() else 1, None if spins is None else spins == "true")


def computed_ns(target: Target, model: str) -> int | None:
    """How long the engine's calls for a model have taken, in all; None where the server has no statistics."""

    def by_http() -> int:
        (entry,) = ask(target, "GET", model_path(model) + "/stats")["model_stats"][:1]
        return sum(int(batch["compute_infer"]["ns"]) for batch in entry["batch_stats"])

    def by_grpc() -> int:
        from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

        entry = ask_grpc(target, "ModelStatistics", name=model).model_stats[0]
        return sum(int(batch.compute_infer.ns) for batch in entry.batch_stats)

    return _or_none(by_grpc if target.grpc else by_http)


def _or_none(read: Callable[[], _Answer]) -> _Answer | None:
    """The answer; None where the server gives none, or one of another form: not every server has every extension."""
    try:
        return read()
    except (TailcutError, LookupError, TypeError, ValueError, AttributeError):
        return None
