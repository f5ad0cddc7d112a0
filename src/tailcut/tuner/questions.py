"""The requests whose answers are compared, made from the data, and the bare model's answers to them.

The reference engine computes each of them alone. They are the data's own requests; several of these joined into one
request of several rows; and, for a model with free dimensions other than the batch, requests cut shorter along them: if
all buckets are at the data's own lengths, padding would otherwise not be tested.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.engines.base import Engine
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.lab.data import evenly
from tailcut.runtime.padding import Lengths, Places, lengths_of, places_of
from tailcut.runtime.settings import PaddingSettings
from tailcut.spec import ModelSpec
from tailcut.tuner.accuracy import Outputs, compare
from tailcut.tuner.dimensions import learned_places

Arrays = dict[str, np.ndarray]
_MOST = 64  # of the data's requests, beside the first ones
_FEWEST, _FEWEST_OF_SLOW = 8, 3  # requests that are answered first, and those of them however long the model takes
_JOINED = (2, 3, 13, 7, 40)  # requests in one: within the usual largest batches, and over them
_JOINED_SHAPES = 12  # of each count
_JOINED_BYTES = 8 << 20
_ANSWER_BYTES = 64 << 20  # of all answers, after which no more are computed
_CUTS = (0.5, 0.75, 0.3, 0.9)  # of a request's length, for a model with free dimensions whatever its settings
_CUTS_ASKED = 8
_OWN = 2  # times as many seconds, for the data's own requests
_TWICE = 3  # requests that the reference computes twice, to find outputs that are random


@dataclass(frozen=True, slots=True)
class Question:
    """A request, the reference answer to it, and where it comes from."""

    inputs: Arrays
    answer: Outputs
    source: int  # index among the data's requests, of the first one if it joins several
    joined: int = 1  # number of the data's requests in it
    lengths: Lengths = ()  # to which it was cut; empty if it was not

    @property
    def is_plain(self) -> bool:
        """Whether it is an unchanged request of the data."""
        return self.joined == 1 and not self.lengths

    @property
    def words(self) -> str:
        """What to call it in a message."""
        text = f"request {self.source}"
        if self.joined > 1:
            text += f" joined with {self.joined - 1} more"
        if self.lengths:
            text += f" cut to length {' x '.join(map(str, self.lengths))}"
        return text


@dataclass(frozen=True, slots=True)
class _AskPlan:
    inputs: Arrays
    source: int
    joined: int = 1
    lengths: Lengths = ()


class ReferenceQuestions:
    """The requests to send to a candidate, with the answers that it must return.

    Args:
        open_reference: opens the bare model; called again for the requests that a candidate's buckets need.
        requests: the data's, at least one.
        seconds: for the answers, and again for those of each set of buckets; at least 3 are computed, and the data's
            own requests may take twice as long.

    Raises:
        TailcutError: the bare model rejects a request of the data.
    """

    def __init__(self, open_reference: Callable[[], Engine], requests: Sequence[Arrays], seconds: float) -> None:
        self._open = open_reference
        self._requests = requests
        self._chosen = {number: requests[number] for number in _chosen(requests)}
        self._seconds = seconds
        self._between: dict[PaddingSettings, list[Question]] = {}
        engine = open_reference()
        try:
            self.spec = engine.spec
            self.all = _answered(engine, self._plans(), seconds)
            again = [question for question in self.all if question.is_plain][:_TWICE]
            self.random = _random_outputs(engine, again, seconds)
        finally:
            engine.close()

    def of(self, padding: PaddingSettings | None) -> list[Question]:
        """The questions for a candidate: all, and if it pads, some with lengths below, at and between its buckets."""
        if padding is None:
            return self.all
        if padding not in self._between:
            engine = self._open()
            try:
                plans = self._below_at_and_between(padding)
                self._between[padding] = _answered(engine, plans, self._seconds)
            finally:
                engine.close()
        return self._between[padding] + self.all

    def _plans(self) -> Iterator[_AskPlan]:
        """Yield the most informative ones first, for models so slow that there is no time for all."""
        singles = iter([_AskPlan(request, number) for number, request in self._chosen.items()])
        yield from itertools.islice(singles, _FEWEST)
        joined = _joins(self._requests, self._chosen) if self.spec.batched else iter(())
        cuts = itertools.islice(_cuts(learned_places(self.spec, self._requests), self._chosen), _CUTS_ASKED)
        for several in itertools.zip_longest(joined, cuts, singles):
            yield from (plan for plan in several if plan is not None)

    def _below_at_and_between(self, padding: PaddingSettings) -> Iterator[_AskPlan]:
        """Yield requests cut to each bucket, lengths next to it and between buckets: one alone, and two joined."""
        places = padded_places(self.spec, padding)
        if places is None:
            return
        own = {number: lengths_of(places, request) for number, request in enumerate(self._requests)}
        turn = 0
        for lengths in _wanted_lengths(padding.dimensions):
            longer = [
                number
                for number, own_lengths in own.items()
                if own_lengths is not None and _is_longer(own_lengths, lengths)
            ]
            chosen = [longer[(turn + index) % len(longer)] for index in range(2)] if longer else []
            turn += 2
            cut = [_cut(places, self._requests[number], lengths) for number in chosen]
            if cut:
                yield _AskPlan(cut[0], chosen[0], 1, lengths)
                if len({_row_shapes(request) for request in cut}) == 1:
                    yield _AskPlan(_join(cut), chosen[0], 2, lengths)


def _chosen(requests: Sequence[Arrays]) -> list[int]:
    """The indices of requests from all parts of the data, which may be sorted: the largest and smallest first."""
    places = range(len(requests))

    def size(index: int) -> int:
        return sum(array.nbytes for array in requests[index].values())

    ends = list(dict.fromkeys([max(places, key=size), min(places, key=size)]))
    first = [*ends, *_shuffled(evenly(places, _FEWEST - len(ends)))]
    return list(dict.fromkeys([*first, *_shuffled(evenly(places, _MOST))]))


def _shuffled(places: Sequence[int]) -> list[int]:
    return random.Random(0).sample(places, len(places))  # noqa: S311  an order, no secret


def padded_places(spec: ModelSpec, padding: PaddingSettings) -> Places | None:
    """The axes that are padded; None if the model cannot be padded this way, which its server reports."""
    try:
        return places_of(spec, padding)
    except UnsupportedError:
        return None


def _answered(engine: Engine, plans: Iterable[_AskPlan], seconds: float) -> list[Question]:
    """Compute answers until the time or the memory for them is spent; requests that the model rejects are left out.

    Raises:
        TailcutError: the model rejects one of the data's own requests.
    """
    began = time.monotonic()
    questions: list[Question] = []
    held = 0
    for plan in plans:
        # The data's own requests may take longer: a profile must not be kept that answers one of them wrongly.
        allowed_s = seconds if plan.joined > 1 or plan.lengths else _OWN * seconds
        is_late = time.monotonic() > began + allowed_s
        if len(questions) >= (_FEWEST_OF_SLOW if is_late else _FEWEST) and (is_late or held > _ANSWER_BYTES):
            continue
        try:
            answer = engine.run(plan.inputs)
        except TailcutError as error:
            if plan.joined == 1 and not plan.lengths:
                raise type(error)(f"request {plan.source} of the data ({_shapes(plan.inputs)}): {error}") from None
            continue
        held += sum(array.nbytes for array in answer.values())
        questions.append(Question(plan.inputs, answer, plan.source, plan.joined, plan.lengths))
    return questions


def _shapes(inputs: Arrays) -> str:
    """Each input with its shape, such as `tokens 1x12`."""
    return ", ".join(f"{name} {'x'.join(map(str, array.shape)) or 'scalar'}" for name, array in inputs.items())


def _random_outputs(engine: Engine, questions: Sequence[Question], seconds: float) -> frozenset[str]:
    """Outputs that differ when the same requests are computed again: at least one of them, whatever time it takes."""
    began, second = time.monotonic(), list[Outputs]()
    for question in questions:
        if second and time.monotonic() > began + seconds:
            break
        second.append(engine.run(question.inputs))
    first = [question.answer for question in questions[: len(second)]]
    return frozenset(
        name
        for name in engine.spec.output_names
        if not compare(
            [{name: outputs[name]} for outputs in first], [{name: outputs[name]} for outputs in second], None
        ).right
    )


def _joins(requests: Sequence[Arrays], chosen: Iterable[int]) -> Iterator[_AskPlan]:
    """Yield requests of several rows, joined from requests whose rows have the same shape as a chosen one's.

    Shapes of a single request are used only if there are no others: joined with itself, it could not show that rows
    mix.
    """
    groups: dict[object, list[int]] = {}
    for number in _shuffled(range(len(requests))):
        groups.setdefault(_row_shapes(requests[number]), []).append(number)
    asked = [groups[shapes] for shapes in dict.fromkeys(_row_shapes(requests[number]) for number in chosen)]
    several = [members for members in asked if len(members) > 1] or asked
    start = 0
    for count in _JOINED:
        for turn in range(min(len(several), _JOINED_SHAPES)):
            members = several[(start + turn) % len(several)]
            joined = [members[(start + index) % len(members)] for index in range(count)]
            one_bytes = sum(array.nbytes for array in requests[joined[0]].values())
            if count == 2 or one_bytes * count <= _JOINED_BYTES:
                yield _AskPlan(_join([requests[number] for number in joined]), joined[0], count)
        start += count


def _row_shapes(request: Arrays) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape[1:] for array in request.values())


def _join(requests: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def _cuts(places: Places | None, requests: Mapping[int, Arrays]) -> Iterator[_AskPlan]:
    """Yield requests cut to shares of their own lengths."""
    if places is None:
        return
    for (number, request), share in zip(requests.items(), itertools.cycle(_CUTS), strict=False):
        own = lengths_of(places, request)
        lengths = () if own is None else tuple(int(share * length) for length in own)
        if own is not None and min(lengths) >= 1 and _is_longer(own, lengths):
            yield _AskPlan(_cut(places, request, lengths), number, 1, lengths)


def _is_longer(own: Lengths, lengths: Lengths) -> bool:
    return own != lengths and all(item >= length for item, length in zip(own, lengths, strict=True))


def _cut(places: Places, request: Arrays, lengths: Lengths) -> Arrays:
    result = dict(request)
    for name, axes in places.items():
        array = request[name]
        for axis, dimension in axes:
            array = array[(slice(None),) * axis + (slice(lengths[dimension]),)]
        result[name] = np.ascontiguousarray(array)
    return result


def _wanted_lengths(dimensions: Sequence[Sequence[int]]) -> list[Lengths]:
    """The lengths to test: of one dimension, or for two, each length of one with some length of the other."""
    several = [_wanted_of(buckets) for buckets in dimensions]
    if len(several) == 1:
        return [(length,) for length in several[0]]
    first, second = several
    pairs = [(length, second[number % len(second)]) for number, length in enumerate(first)]
    pairs += [(first[(number + 1) % len(first)], length) for number, length in enumerate(second)]
    return list(dict.fromkeys(pairs))


def _wanted_of(buckets: Sequence[int]) -> list[int]:
    """One length for every bucket, then the next one for each, so that even a slow model covers all buckets in time."""
    gaps = list(itertools.pairwise((0, *buckets)))
    places = [
        [(low + high) // 2 for low, high in gaps],
        [low + 1 for low, _ in gaps],
        [high - 1 for _, high in gaps],
        [high for _, high in gaps],
        [(low + 3 * high) // 4 for low, high in gaps],
    ]
    return list(dict.fromkeys(length for lengths in places for length in lengths if length >= 1))
