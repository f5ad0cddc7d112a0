"""The second engine of a model: opened by its profile, and checked to compute the same model as the first."""

from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tailcut.engines import open_engine
from tailcut.engines.base import Engine
from tailcut.engines.samples import Samples
from tailcut.errors import UnsupportedError, UsageError
from tailcut.runtime.opening.row_proof import settle_rows
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import SecondEngine
from tailcut.spec import ModelSpec


def open_second(profile: Profile, spec: ModelSpec, samples: Samples | None) -> Engine | None:
    """The second engine that a profile asks for; None where it does not.

    Args:
        profile: of the model.
        spec: that of the first engine, with the decision about rows.
        limits: of the model.
        samples: requests for the proof of rows; None: generated ones.

    Raises:
        UnsupportedError: the engine or its device is missing, or it has other inputs, outputs or rows than the first.
        ModelFileError: it cannot load the file.
    """
    second = profile.settings.batching.second
    if second is None:
        return None
    engine = load_second(profile, second)
    try:
        settle_rows(engine, profile.settings.batching.rows, samples)
    except BaseException:
        engine.close()
        raise
    difference = _difference(engine.spec, spec)
    if difference:
        engine.close()
        raise UnsupportedError(f"{spec.name}: batching.second {difference}")
    engine.spec = spec
    return engine


def _difference(second: ModelSpec, first: ModelSpec) -> str:
    """How the second engine's model differs from the first; empty where it does not."""
    if second.signature != first.signature:
        return (
            "has other inputs or outputs than the first engine: give both the same u8_input, outputs, fixed_dims and "
            "reshapes"
        )
    if first.batched and not second.batched:
        reason = second.rows_reason or "unknown"
        return f"does not keep the rows of a batch apart ({reason}): choose another precision"
    return ""


def load_second(profile: Profile, second: SecondEngine) -> Engine:
    """Load the model with the settings of the second engine."""
    return open_engine(Path(profile.model.path), second.engine, profile.model.name)


def with_cpu(profile: Profile, use: Literal["route", "fallback"]) -> Profile:
    """The profile with its model also on the CPU, in float32.

    Raises:
        UsageError: its first engine is on the CPU already.
    """
    engine, batching = profile.settings.engine, profile.settings.batching
    if engine.device == "cpu":
        raise UsageError(f"--also-cpu {use}: {profile.model.name} is on the CPU already: add --device cuda")
    on_cpu = replace(engine, device="cpu", precision="f32", layout="blocked", threads=0, instances=1)
    batching = replace(batching, second=SecondEngine(use=use, engine=on_cpu))
    return replace(profile, settings=replace(profile.settings, batching=batching))
