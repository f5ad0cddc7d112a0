"""The six rungs, in the order in which earlier steps usually win more: what each one offers a model on a machine.

Pure: facts in, candidates out. A rung's offers come in groups; the candidates of a group are alternatives for one
thing, built on the best settings so far at the time the group begins.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tailcut.runtime.profile import PaddedInput, PaddingSettings, Settings
from tailcut.spec import ModelSpec

BASELINE = Settings()  # what most people run: the engine's defaults, one call a request
_BATCHES = (4, 8, 32)
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_SPIN_US = 100
_HUGE_PAGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides whether a candidate makes sense."""

    spec: ModelSpec
    usable_cpus: int
    hardware_cpus: int
    isa: frozenset[str]
    has_quota: bool = False
    wire: Literal["json", "binary", "any"] = "any"
    lengths: tuple[int, ...] = ()  # of the data's requests, along the free dimension beside the batch
    waits_us: tuple[int, ...] = ()  # for company, that may pay at the rate offered
    int8: bool = True  # whether an operator of the model benefits from it


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to try, and what they are called."""

    setting: str
    settings: Settings

    @property
    def changes_precision(self) -> bool:
        """Whether it computes in less than float32."""
        return self.settings.engine.precision != "f32"


Group = list[Candidate]
Offer = Callable[[Facts, Settings], Iterator[Group]]


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung: its name, what it offers, and what it says when that is nothing."""

    name: str
    offer: Offer
    nothing: str

    def groups(self, facts: Facts) -> int:
        """How many groups it has for a model, as far as can be told before it is climbed."""
        return sum(1 for _ in self.offer(facts, BASELINE))


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """The settings with some values of some sections replaced."""
    for name, values in sections.items():
        part = msgspec.structs.replace(getattr(settings, name), **values)
        settings = msgspec.structs.replace(settings, **{name: part})
    return settings


def _candidate(best: Settings, **sections: dict[str, Any]) -> Candidate:
    settings = changed(best, **sections)
    return Candidate(settings.describe(best) or settings.describe() or "defaults", settings)


def _algorithmic(facts: Facts, best: Settings) -> Iterator[Group]:
    if facts.spec.fixed_rows:
        yield [_candidate(best, batching={"bind": True})]
    # Requests of different lengths hardly ever share a plain batch: where there are some, buckets go before sizes.
    paddings = _paddings(facts, best) if facts.spec.batched else []
    if paddings:
        yield paddings
    if facts.spec.batched:
        yield [_candidate(best, batching={"max_batch": size, "bind": best.batching.bind}) for size in _BATCHES]
    if best.batching.max_batch > 1 and best.batching.dispatch == "worker" and facts.waits_us:
        yield [_candidate(best, batching={"hold_us": wait}) for wait in facts.waits_us]


def _paddings(facts: Facts, best: Settings) -> Group:
    """Buckets by powers of two, and by the quartiles of the data's lengths; the accuracy check tells who bears them."""
    free = {tensor.name: tensor.row_shape.count(None) for tensor in facts.spec.inputs}
    lengths = sorted(facts.lengths)
    if len(set(lengths)) < 2 or set(free.values()) - {0, 1}:
        return []
    inputs = tuple(PaddedInput(name=name) for name, count in free.items() if count)
    powers = {1 << (length - 1).bit_length() for length in lengths if length}
    quartiles = {lengths[(len(lengths) - 1) * quarter // 4] for quarter in (1, 2, 3, 4)} - {0}
    batch = max(best.batching.max_batch, _BATCHES[1])
    return [
        _candidate(
            best,
            batching={"max_batch": batch, "padding": PaddingSettings(buckets=tuple(sorted(buckets)), inputs=inputs)},
        )
        for buckets in (powers, quartiles)
    ]


def _layout(facts: Facts, best: Settings) -> Iterator[Group]:
    del facts
    if best.engine.name == "onnxruntime":
        yield [_candidate(best, engine={"layout": "plain"})]
        yield [_candidate(best, engine={"prepack": False})]


def _parallelism(facts: Facts, best: Settings) -> Iterator[Group]:
    cpus = facts.usable_cpus
    yield _threads(facts, best)
    yield [
        _candidate(best, batching={"dispatch": "inline", "hold_us": 0}, engine={"instances": 1}),
        _candidate(best, batching={"dispatch": "adaptive"}, engine={"instances": 1}),
    ]
    yield [_candidate(best, engine={"spinning": False})]
    if cpus > 1:
        yield [_candidate(best, io={"spin_us": _SPIN_US})]
    if cpus > 1 and not facts.has_quota:
        yield [_candidate(best, engine={"pinning": True, "threads": best.engine.threads or cpus})]


def _threads(facts: Facts, best: Settings) -> Group:
    """Threads of one instance, or as many instances of one thread."""
    cpus = facts.usable_cpus
    choices = [{"threads": 1, "instances": 1}]
    if cpus > 1:
        choices.append({"threads": 1, "instances": cpus})
    if cpus != facts.hardware_cpus:
        choices.append({"threads": cpus, "instances": 1})  # else what the engine takes by itself
    if cpus > 3:
        choices.append({"threads": cpus // 2, "instances": 2})
    return [_candidate(best, engine=choice) for choice in choices]


def _simd(facts: Facts, best: Settings) -> Iterator[Group]:
    """Another engine wants its own threads: the choice of the last rung is offered again with it."""
    cpus = facts.usable_cpus
    counts = sorted({1, cpus}, reverse=True)
    strings = any(tensor.dtype == "BYTES" for tensor in facts.spec.inputs + facts.spec.outputs)
    choices = [("f32", cpus)] + [("bf16", threads) for threads in counts if _BF16_FLAGS & facts.isa]
    group = []
    if not strings:
        for precision, threads in choices:
            engine = {
                "name": "openvino",
                "precision": precision,
                "threads": threads,
                "instances": 1,
                "layout": "blocked",
            }
            group.append(_candidate(best, engine=engine | {"prepack": True, "spinning": True, "arena": True}))
    if facts.int8:
        group.append(_candidate(best, engine={"name": "onnxruntime", "precision": "int8"}))
    if group:
        yield group


def _allocation(facts: Facts, best: Settings) -> Iterator[Group]:
    if best.engine.name == "onnxruntime":
        yield [_candidate(best, engine={"arena": False})]
    yield [_candidate(best, memory={"gc_freeze": True})]
    if facts.spec.fixed_rows and best.batching.bind:
        yield [_candidate(best, memory={"prefault": True})]
        row_bytes = sum(tensor.row_bytes or 0 for tensor in facts.spec.inputs)
        if row_bytes * best.batching.max_batch >= _HUGE_PAGE:
            yield [_candidate(best, memory={"huge_pages": True})]


def _io(facts: Facts, best: Settings) -> Iterator[Group]:
    if facts.wire != "json":
        wires = ["binary", "raw"] if facts.wire == "any" and len(facts.spec.inputs) == 1 else ["binary"]
        yield [_candidate(best, io={"wire": wire}) for wire in wires]
    if facts.wire != "json" and facts.spec.fixed_rows and best.batching.bind and len(facts.spec.inputs) == 1:
        row_bytes = facts.spec.inputs[0].row_bytes or 0
        if row_bytes > 4096:
            limit = 4096 if best.io.direct_bytes > row_bytes else 1 << 30
            yield [_candidate(best, io={"direct_bytes": limit})]
    if facts.usable_cpus > 1:
        yield _workers(facts, best)


def _workers(facts: Facts, best: Settings) -> Group:
    """Processes that share the CPUs: one for each, or two where that leaves several to each."""
    cpus = facts.usable_cpus
    counts = sorted({count for count in (2, cpus) if 1 < count <= cpus})
    return [
        _candidate(best, io={"workers": count}, engine={"threads": cpus // count, "instances": 1}) for count in counts
    ]


RUNGS = (
    Rung(
        "algorithmic",
        _algorithmic,
        "the model has no batch dimension and no rows of fixed size: nothing to share or bind",
    ),
    Rung("layout", _layout, "the engine lays memory out by itself"),
    Rung("parallelism", _parallelism, "there is one CPU"),
    Rung("simd", _simd, "no other engine or precision takes this model"),
    Rung("allocation", _allocation, "nothing is allocated in the steady state"),
    Rung("io", _io, "clients speak JSON (--wire json), and JSON has one encoding"),
)


def starting_settings() -> Settings:
    """Where the climb begins: the baseline, its rows not yet bound, its clients speaking JSON.

    With --wire json every rung is measured behind JSON. Otherwise a comparison of two candidates on one wire is made on
    the binary one, so that parsing megabytes of JSON does not drown what the engine's rungs do; the io rung then
    measures JSON against binary on the result.
    """
    return changed(BASELINE, batching={"bind": False}, io={"wire": "json"})


__all__ = ["BASELINE", "RUNGS", "Candidate", "Facts", "Group", "Rung", "changed", "starting_settings"]
