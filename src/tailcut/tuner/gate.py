"""The accuracy gate: sends requests to a candidate as traffic would, and compares its answers with the bare model's.

Different requests are sent together, over as many connections as fill the candidate's batches, because a fault of
batching or padding shows only when requests share a batch. A few are sent alone first, because a lone request takes a
different path through the server. Which requests are sent together changes from pass to pass.
"""

import math
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailcut.engines.base import U8Input
from tailcut.lab.burst import Burst, BurstAnswer
from tailcut.lab.data import evenly
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.payload import Wire, encoded, infer_payload
from tailcut.runtime.padding import lengths_of
from tailcut.runtime.settings import PaddingSettings, Settings
from tailcut.tuner.accuracy import Accuracy, Metric, Outputs, RowFinding, compare
from tailcut.tuner.json_wire import is_json
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.questions import Question, ReferenceQuestions, padded_places

_ALONE = 8  # questions sent alone, on one connection
_FEWEST_TOGETHER, _MOST_TOGETHER = 16, 64
_FEWEST_OF_SLOW = 4  # sent together to a server that is slow to answer
_PASSES = 2  # over all questions, in a different order each time
_WHOLE, _LEAST_WHOLE_S = 3, 1.0  # times a check's seconds, and seconds: after that no large joined ones
_PAIR = 2  # requests joined into one, which are sent even then
_LATER = frozenset({413, 503, 504})  # rejected for lack of room or time: sent again alone, and no wrong answer
_STRICTER = 0.8  # of the error that the bound allows
_ADVISED = (0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.8)  # bounds, strictest first
_JSON_BYTES = 1 << 20  # larger requests are sent in binary, whatever encoding the clients use


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as it was sent, and the reply."""

    question: Question
    others: int  # requests sent together with it
    reply: BurstAnswer

    @property
    def words(self) -> str:
        """What to call it in a message."""
        return f"{self.question.words}, asked {f'with {self.others} others' if self.others else 'alone'}"


@dataclass(frozen=True, slots=True)
class Advice:
    """How close rejected answers are, and the `--accuracy` that would accept them."""

    accuracy: Accuracy
    bound: float


class Gate:
    """Judges candidates of one model.

    Args:
        questions: the requests to send, with the reference answers.
        bound: of `--accuracy`; None for exact.
        metric: the user's measure, which replaces the built-in ones.
        seed: of the order in which questions are sent.

    Raises:
        UsageError: the metric cannot be used.
    """

    def __init__(
        self, questions: ReferenceQuestions, bound: float | None, metric: Metric | None = None, seed: int = 0
    ) -> None:
        self._questions = questions
        self._bound = bound
        self._metric = metric
        self._seed = seed
        self._payloads: dict[tuple[int, Wire, U8Input | None], Payload] = {}
        if metric is not None:
            metric.check([question.answer for question in questions.all], 1.0 if bound is None else bound)

    @property
    def random_outputs(self) -> tuple[str, ...]:
        """Outputs that are not compared, because the bare model draws them at random; none with a metric."""
        if self._metric is not None:
            return ()
        return tuple(name for name in self._questions.spec.output_names if name in self._questions.random)

    @property
    def blind(self) -> bool:
        """Whether nothing can be compared: every output is random."""
        return len(self.random_outputs) == len(self._questions.spec.outputs)

    def held_out(self) -> list[Question]:
        """Every second unchanged request, by which a quantised copy is judged, and from which it must not be made.

        They are followed by the joined requests, which are most of what `check` compares; a copy may have been made
        from some of these.
        """
        whole = [question for question in self._questions.all if not question.lengths]
        plain = [question for question in whole if question.joined == 1]
        return plain[1::2] + [question for question in whole if question.joined > 1]

    @property
    def plain(self) -> list[Question]:
        """The unchanged requests of the data that the reference has answered."""
        return [question for question in self._questions.all if question.is_plain]

    def sample(self, count: int) -> list[Question]:
        """`count` of the unchanged requests, spread evenly over the data."""
        return evenly(self.plain, count)

    def judge_engine(
        self, questions: Sequence[Question], answers: Sequence[Outputs], outputs: Sequence[str] = ()
    ) -> Accuracy:
        """Compare an engine's answers to the first of these questions, as `check` does.

        Args:
            questions: that it was sent.
            answers: in the same order; at most as many as questions.
            outputs: the outputs that it computes; empty for all.
        """
        return compare(
            [_only(question.answer, outputs) for question in questions[: len(answers)]],
            answers,
            self._bound,
            metric=self._metric,
            uncompared=frozenset(self.random_outputs),
        )

    def judge(self, questions: Sequence[Question], answers: Sequence[Outputs]) -> Accuracy:
        """Compare answers to the first of these questions, more strictly than `check`, which sends more of them."""
        bound = self._bound
        if bound is not None and self._metric is None:
            bound = 1 - _STRICTER * (1 - bound)
        return compare(
            [question.answer for question in questions[: len(answers)]],
            answers,
            bound,
            metric=self._metric,
            uncompared=frozenset(self.random_outputs),
        )

    def accepting(
        self, questions: Sequence[Question], answers: Sequence[Outputs], outputs: Sequence[str] = ()
    ) -> float | None:
        """The strictest of some `--accuracy` values that accepts these answers to the first questions, with a margin.

        None if even the loosest one does not.
        """
        expected = [_only(question.answer, outputs) for question in questions[: len(answers)]]
        return self._accepting(expected, answers)

    def advise(self, target: LoadTarget, settings: Settings, seconds: float, most_together: int) -> Advice | None:
        """Send every question to a server whose answers were rejected, and find an `--accuracy` that accepts them.

        None if there is none: the server fails, its answers have another shape or dtype, or are too far off.
        """
        questions = self._questions.of(settings.batching.padding)
        asked = self._answers(target, questions, settings, seconds, most_together, whole=True)
        if not asked or any(answered.reply.status != 200 for answered in asked):
            return None
        expected = [_only(answered.question.answer, settings.engine.outputs) for answered in asked]
        bound = self._accepting(expected, [answered.reply.outputs for answered in asked])
        return None if bound is None else Advice(self._judge(asked, settings.engine.outputs), bound)

    def _accepting(self, expected: Sequence[Outputs], answers: Sequence[Outputs]) -> float | None:
        def accepts(bound: float) -> bool:
            strict = 1 - _STRICTER * (1 - bound)
            uncompared = frozenset(self.random_outputs)
            return compare(expected, answers, strict, metric=self._metric, uncompared=uncompared).right

        looser = [bound for bound in _ADVISED if self._bound is None or bound < self._bound]
        index = bisect_left(looser, x=True, key=accepts)  # the strictest first: what one accepts, the next ones do
        return looser[index] if index < len(looser) else None

    def check(
        self,
        target: LoadTarget,
        settings: Settings,
        seconds: float,
        most_together: int = _MOST_TOGETHER,
        *,
        whole: bool = False,
    ) -> Accuracy:
        """Send requests to a server of these settings for about `seconds`, and compare its answers.

        Args:
            target: where the server listens.
            settings: what it was started with: they determine what fills a batch, and which lengths are padded.
            seconds: one pass over a few questions is made however long it takes.
            most_together: requests in flight, at most; fewer for a slow model.
            whole: send every question once, however long that takes; those of many rows, whose answers may have many
                megabytes, only within a few times `seconds`.
        """
        questions = self._questions.of(settings.batching.padding)
        padding = settings.batching.padding
        if padding is not None and (self.blind or not self._is_between(questions, padding)):
            why = "the model is random" if self.blind else "no request has a length between the buckets"
            return Accuracy(right=False, reason=f"{why}, so the effect of padding cannot be checked")
        asked = self._answers(target, questions, settings, seconds, most_together, whole=whole)
        is_whole = {id(answered.question) for answered in asked} >= set(map(id, questions))
        return replace(self._judge(asked, settings.engine.outputs), whole=is_whole)

    def _answers(  # noqa: PLR0913  as in check
        self,
        target: LoadTarget,
        questions: Sequence[Question],
        settings: Settings,
        seconds: float,
        most_together: int,
        *,
        whole: bool,
    ) -> list[AskedQuestion]:
        usual = 2 * settings.batching.max_batch_size * settings.engine.instances
        together = min(max(_FEWEST_TOGETHER, usual), _MOST_TOGETHER, most_together)
        asked: list[AskedQuestion] = []
        with Burst(target) as burst:
            for group in self._groups(questions, together, seconds, whole=whole):
                asked += self._ask(burst, target, group, settings)
        return asked

    def _is_between(self, questions: Sequence[Question], padding: PaddingSettings) -> bool:
        """Whether in each dimension some request needs padding."""
        places = padded_places(self._questions.spec, padding)
        if places is None:
            return False
        several = [lengths for question in questions if (lengths := lengths_of(places, question.inputs)) is not None]
        return all(
            any(lengths[number] < buckets[-1] and lengths[number] not in buckets for lengths in several)
            for number, buckets in enumerate(padding.dimensions)
        )

    def _groups(
        self, questions: Sequence[Question], together: int, seconds: float, *, whole: bool
    ) -> Iterator[list[Question]]:
        """Which questions are sent together, until the time is over; at least one alone and one group.

        The groups are smaller, and have no large joined requests, for a server so slow that it would not answer a whole
        one in twice the time that is left, unless all questions have to be sent: an engine that compiles each shape
        takes ten times as long at first.
        """
        began = time.monotonic()
        end = began + seconds
        order = random.Random(self._seed)  # noqa: S311  an order, no secret
        alone = 0
        for question in questions[:_ALONE]:
            if alone and time.monotonic() > end - seconds / 2:
                break
            yield [question]
            alone += 1
        now = time.monotonic()
        answerable = int(2 * (end - now) * alone / max(now - began, 1e-9))
        if not whole and answerable < together:
            together = max(_FEWEST_OF_SLOW, answerable)
            questions = [question for question in questions if question.joined <= _PAIR]
        rows = max(together, answerable // 2) if not whole else math.inf
        for number in range(_PASSES):
            mixed = list(questions)
            order.shuffle(mixed)
            for index, whole_group in enumerate(_filled(mixed, together, rows)):
                now, group = time.monotonic(), whole_group
                if now > end and (number or (index and not whole)):
                    return
                if index and now > end + max(_WHOLE * seconds, _LEAST_WHOLE_S):
                    group = [question for question in group if question.joined <= _PAIR]
                if group:
                    yield group

    def _ask(
        self, burst: Burst, target: LoadTarget, group: Sequence[Question], settings: Settings
    ) -> list[AskedQuestion]:
        payloads = [self._payload(target, question, settings) for question in group]
        asked = []
        for question, payload, reply in zip(group, payloads, burst.ask(payloads), strict=True):
            others, last = len(group) - 1, reply
            if last.status in _LATER:
                others, last = 0, burst.ask([payload])[0]
            if last.status not in _LATER - {504}:
                asked.append(AskedQuestion(question, others, last))
        return asked

    def _payload(self, target: LoadTarget, question: Question, settings: Settings) -> Payload:
        # Shared memory has the same bytes as binary bodies, and each load over it starts by comparing the answers of
        # both.
        wire, fold = encoded(settings.io.wire), settings.engine.u8_input
        if (wire == "json" and not _fits_json(question)) or (wire == "raw" and not self._is_raw()):
            wire = "binary"
        key = (id(question), wire, fold)
        if key not in self._payloads:
            spec = self._questions.spec
            inputs = question.inputs if fold is None else as_pixels(fold, spec, question.inputs)
            self._payloads[key] = infer_payload(target, spec.name, inputs, wire)
        return self._payloads[key]

    def _is_raw(self) -> bool:
        spec = self._questions.spec
        return len(spec.inputs) == 1 and spec.fixed_rows

    def _judge(self, asked: Sequence[AskedQuestion], outputs: Sequence[str] = ()) -> Accuracy:
        if not asked:
            return Accuracy(right=False, reason="no request was answered: the server had room for none")
        for answered in asked:
            if answered.reply.status != 200:
                words = f"the server answers {answered.reply.status or 'nothing'}: {answered.reply.message}"
                row = RowFinding(answered.question.source, 0, "", "status", words, np.inf, asked=answered.words)
                return Accuracy(right=False, reason=f"{answered.words}: {words}", requests=len(asked), rows=(row,))
        accuracy = compare(
            [_only(answered.question.answer, outputs) for answered in asked],
            [answered.reply.outputs for answered in asked],
            self._bound,
            metric=self._metric,
            uncompared=frozenset(self.random_outputs),
        )
        rows = tuple(
            replace(row, request=asked[row.request].question.source, asked=asked[row.request].words)
            for row in accuracy.rows
        )
        reason = f"{rows[0].asked}: {rows[0].where}" if rows and not accuracy.right else accuracy.reason
        return replace(accuracy, rows=rows, reason=reason)


def _filled(questions: Sequence[Question], most: int, most_rows: float) -> Iterator[list[Question]]:
    """Yield groups of at most `most` questions, with at most `most_rows` of the data's requests where possible."""
    group: list[Question] = []
    for question in questions:
        rows = sum(member.joined for member in group) + question.joined
        if group and (len(group) == most or rows > most_rows):
            yield group
            group = []
        group.append(question)
    if group:
        yield group


def _only(answer: Outputs, names: Sequence[str]) -> Outputs:
    """The outputs of these names; all where none are named."""
    return {name: answer[name] for name in names} if names else answer


def _fits_json(question: Question) -> bool:
    """Whether the request and its answer fit JSON: small, without NaN or infinity, and strings in UTF-8."""
    arrays = [*question.inputs.values(), *question.answer.values()]
    return sum(array.nbytes for array in arrays) <= _JSON_BYTES and all(map(is_json, arrays))
