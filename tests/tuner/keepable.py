"""Profiles that a tune may keep of a model: settings of its own search space, small changes included.

The space is that of a tune, so that what is offered, quantised and judged is what `tailcut tune` offers, quantises and
judges; only what is timed is left out.
"""

import copy
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np
import onnx
from tests.cases import Arrays, Case, check_same
from tests.engines.models import convolution, masked_mean, perceptron
from tests.engines.models import images as pictures_model

from tailcut import Client
from tailcut.engines.base import U8Input
from tailcut.lab.load import LoadTarget
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.accuracy import compare
from tailcut.tuner.gate import Gate
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.refinements import refinements
from tailcut.tuner.session import open_session
from tailcut.tuner.space import RUNG_FIELDS, engine_choices, serving_choices, with_fields

Answer = tuple[int, Arrays]  # the place of the request, and what came back
CLIENTS = 12
_TURNS = 2  # requests of each client to each model
BOUND = 0.999  # as `--accuracy` has it where nothing is said
# For twice the error: it is judged beside the spread of what is asked, and the gate asks other requests.
_NEAR = 0.996
BYTES = U8Input(scale=(1 / 255,), offset=(-0.5,))
_BUDGET_S = 20.0  # the least for which a tune quantises the model
_ALONE_US = 100.0  # what one row is said to take: queue delays are shares of it
_GATE_S = 1.0  # for what it has to decide: more than a race gives it, so that it is as sure as at the end
_LARGEST_BATCH = 128  # that is ever tried


def data_of(case: Case) -> Arrays:
    """The requests of a case in the form of a data file: one group of arrays per request."""
    return {f"{name}/{n}": array for n, request in enumerate(answered(case)) for name, array in request.items()}


def answered(case: Case) -> list[Arrays]:
    """The requests of a case without those that the model refuses, which no data file may have."""
    return [item for item, truth in zip(case.requests, case.truths(), strict=True) if truth is not None]


@dataclass(frozen=True, eq=False)
class Kept:
    """A named profile, with requests for it and the right answers to them."""

    model: str
    name: str
    path: Path
    settings: Settings
    requests: Sequence[Arrays]
    truths: Sequence[Arrays]

    @property
    def exact(self) -> bool:
        """Whether the answers must be exact: float32, without padding."""
        return self.settings.engine.precision == "f32" and self.settings.batching.padding is None

    def check(self, answers: Sequence[Answer]) -> None:
        """Check that each answer equals that to the request alone, as closely as the accuracy gate demands."""
        truths = [self.truths[index] for index, _ in answers]
        outputs = [result for _, result in answers]
        if self.settings.engine.precision == "f32":
            for result, truth in zip(outputs, truths, strict=True):
                check_same(result, truth)
        else:
            verdict = compare(truths, outputs, _NEAR)
            assert verdict.right, f"{self.name}, {self.settings.describe()}: {verdict.reason}"


def check_alone(url: str, profiles: Sequence[Kept]) -> None:
    """Send each of its requests alone."""
    with Client(url) as client:
        for profile in profiles:
            profile.check(
                [(index, client.infer(profile.name, request)) for index, request in enumerate(profile.requests)]
            )


def check_together(url: str, profiles: Sequence[Kept]) -> None:
    """Have twelve clients send different requests to one model at the same time; then the same for the next model."""
    start = threading.Barrier(CLIENTS)

    def ask(first: int) -> dict[str, list[Answer]]:
        answers: dict[str, list[Answer]] = {}
        with Client(url) as client:
            for profile in profiles:
                start.wait(60)
                places = [(first + turn) % len(profile.requests) for turn in range(_TURNS)]
                answers[profile.name] = [
                    (index, client.infer(profile.name, profile.requests[index])) for index in places
                ]
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        result = list(pool.map(ask, range(CLIENTS)))
    for profile in profiles:
        profile.check([answer for answers in result for answer in answers[profile.name]])


def questions_of(case: Case) -> tuple[list[Arrays], list[Arrays]]:
    """A case's requests, plus one with more rows than the largest batch if it has rows, with the right answers."""
    requests = [*answered(case), _many_rows(case)] if case.batched else answered(case)
    truths = [truth for truth in replace(case, requests=requests).truths() if truth is not None]
    assert len(truths) == len(requests), "the model refuses more rows than the largest batch"
    return requests, truths


class Tune:
    """What a tune of one model would choose from; `close` removes its quantised copies."""

    def __init__(self, case: Case, name: str, folder: Path, normalize: U8Input | None = None) -> None:
        self._name = name
        self._folder = folder
        self._model = folder / f"{name}.onnx"
        onnx.save(case.model, self._model)
        wanted = TuneRequest(self._model, data_of(case), budget_s=_BUDGET_S, normalize=normalize)
        self._session = open_session(wanted, lambda event: None)
        self._space = ModelSpace(self._session)
        self._space.calibrate()
        self._requests, self._truths = questions_of(case)

    def offered(self) -> list[Settings]:
        """All candidates of the race."""
        facts = self._space.facts
        return [s for engine in engine_choices(facts) for s in serving_choices(facts, engine, _ALONE_US)]

    def refined(self, settings: Settings) -> Settings:
        """The settings with all the small changes at once that a tune tries on them,

        But for the number of processes, and for leaving out the buckets, which other changes need.
        """
        refined = settings
        for change in refinements(self._space.facts, settings):
            unpadded = change.batching.padding is None and settings.batching.padding is not None
            if change.io.workers == 1 and not unpadded:
                refined = with_fields(refined, change, _differing(change, settings))
        return refined

    def profile(self, settings: Settings, number: int) -> Kept:
        """A profile in the form that a tune writes."""
        name = f"{self._name}.{number}"
        profile = Profile.of_model(self._model, settings, name)
        profile = msgspec.structs.replace(profile, samples=self._session.servers.samples)
        copy = self._session.servers.copy_of(settings.engine)
        if copy is not None:
            profile = profile.with_copy(copy, settings)
        path = self._folder / f"{name}.profile.toml"
        profile.save(path)
        fold, requests = settings.engine.u8_input, self._requests
        if fold is not None:
            requests = [as_pixels(fold, self._session.spec, request) for request in requests]
        return Kept(self._name, name, path, settings, requests, self._truths)

    def passes(self, kept: Kept, target: LoadTarget) -> bool:
        """Whether one of its profiles passes the accuracy gate."""
        questions = copy.copy(self._session.gate._questions)  # the tune's own, asked under this name
        questions.spec = replace(questions.spec, name=kept.name)
        return Gate(questions, BOUND).check(target, kept.settings, 0.0 if kept.exact else _GATE_S).right

    def close(self) -> None:
        """Remove the quantised copies."""
        self._space.close()


def _many_rows(case: Case) -> Arrays:
    """One request with more rows than the largest batch."""
    first = case.requests[0]
    return {name: np.concatenate([array] * (_LARGEST_BATCH + 9)) for name, array in first.items()}


def _differing(settings: Settings, other: Settings) -> tuple[str, ...]:
    fields = [field for rung in RUNG_FIELDS.values() for field in rung]
    return tuple(field for field in fields if attrgetter(field)(settings) != attrgetter(field)(other))


def quantised(path: Path) -> Case:
    """Layers with enough weights for int8, enough data to quantise with, and an index, which int8 may change."""
    random = np.random.default_rng(0)
    requests = [{"x": random.standard_normal((1 + n % 3, 32)).astype(np.float32)} for n in range(24)]
    return Case(onnx.load(perceptron([32, 64, 1], path / "quantised.onnx")), requests, batched=True)


def padded(path: Path) -> Case:
    """A model with a mask, so that the padding of a bucket has no effect."""
    requests = []
    for length, rows in ((3, 1), (7, 2), (12, 1), (19, 3), (7, 1), (30, 1)):
        ids = np.random.default_rng(length).integers(1, 32, (rows, length))
        requests.append({"ids": ids, "mask": np.ones_like(ids)})
    return Case(onnx.load(masked_mean(path / "padded.onnx")), requests, batched=True)


def pictures(path: Path) -> Case:
    """Images of different heights and widths; the model pads edges with zeros, as buckets do."""
    random = np.random.default_rng(0)
    sizes = ((1, 9, 20), (2, 12, 14), (1, 16, 31), (3, 10, 25), (1, 23, 12), (1, 30, 40))
    requests = [{"image": random.standard_normal((n, 2, h, w)).astype(np.float32)} for n, h, w in sizes]
    return Case(onnx.load(pictures_model(path / "pictures.onnx")), requests, batched=True)


def images(path: Path) -> Case:
    """A model of pixels, for which clients send image files (BYTES)."""
    random = np.random.default_rng(0)
    sizes = (1, 2, 1, 5, 1, 3)
    pixels = [random.integers(0, 256, (rows, 3, 8, 8)) for rows in sizes]
    (scale,), (offset,) = BYTES.scale, BYTES.offset
    requests = [{"image": (item * scale + offset).astype(np.float32)} for item in pixels]
    return Case(onnx.load(convolution(path / "images.onnx")), requests, batched=True)


def covering(choices: Iterable[Settings], traits: Callable[[Settings], Iterator[Hashable]]) -> list[Settings]:
    """A small selection of settings that together have every trait, chosen greedily."""
    left = {choice: set(traits(choice)) for choice in choices}
    chosen: list[Settings] = []
    while left:
        best = max(left, key=lambda item: len(left[item]))
        new = left.pop(best)
        chosen.append(best)
        left = {item: rest for item, had in left.items() if (rest := had - new)}
    return chosen


def traits_of(settings: Settings) -> Iterator[Hashable]:
    """Threads and instances, precision, dispatch and batch size of each engine; each dispatch with each batch size;
    delays and padding with each of those. Spinning is left out: it takes a core, and changes no answer."""
    engine, batching = settings.engine, settings.batching
    yield engine.name, engine.precision
    yield engine.name, engine.threads, engine.instances
    yield engine.name, batching.dispatch
    yield engine.name, batching.max_batch_size
    yield batching.dispatch, batching.max_batch_size
    if batching.max_queue_delay_us:
        yield engine.name, batching.max_queue_delay_us
        yield "delay", batching.max_batch_size
    if batching.padding is not None:
        yield engine.name, batching.padding
        yield batching.padding, batching.dispatch
        yield batching.padding, batching.max_batch_size
