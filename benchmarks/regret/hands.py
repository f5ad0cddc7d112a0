"""Ten profiles that a person who knows both engines would write by hand for a model, each in a minute."""

from collections.abc import Iterator

from tailcut.engines.base import EngineOptions
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.tuner.space import BF16_FLAGS, SpaceFacts, quickest_wire

# Engine, precision, threads, instances, dispatch, largest batch; spinning is off where threads share the machine.
_HANDS = (
    ("onnxruntime", "f32", 1, 1, "inline", 32),
    ("onnxruntime", "f32", 1, 1, "inline", 128),
    ("onnxruntime", "f32", 1, 1, "adaptive", 32),
    ("onnxruntime", "f32", 2, 1, "worker", 32),
    ("onnxruntime", "f32", 1, 2, "worker", 16),
    ("openvino", "bf16", 1, 1, "inline", 64),
    ("openvino", "bf16", 1, 1, "adaptive", 64),
    ("openvino", "bf16", 2, 1, "worker", 32),
    ("openvino", "bf16", 1, 2, "worker", 16),
    ("openvino", "f32", 1, 1, "adaptive", 32),
)


def hands(facts: SpaceFacts) -> Iterator[tuple[str, Settings]]:
    """The profiles by name; what the machine cannot do is done in float32, and a dependent model has batches of one."""
    for engine, precision, threads, instances, dispatch, largest in _HANDS:
        exact = precision == "bf16" and not BF16_FLAGS & facts.isa
        options = EngineOptions(
            name=engine,  # type: ignore[arg-type]
            precision="f32" if exact else precision,  # type: ignore[arg-type]
            threads=min(threads, facts.usable_cpus),
            instances=min(instances, facts.usable_cpus),
            spinning=threads == 1,
        )
        batching = BatchingSettings(
            max_batch_size=largest if facts.spec.batched else 1,
            dispatch=dispatch,  # type: ignore[arg-type]
            bind=facts.spec.fixed_rows,
        )
        name = f"{engine} {options.precision}, {threads} x {instances}, {dispatch}, {batching.max_batch_size}"
        yield name, Settings(engine=options, batching=batching, io=IoSettings(wire=quickest_wire(facts)))
