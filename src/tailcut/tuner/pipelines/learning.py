"""What a tune knows of a pipeline before it measures: signature, requests, and the untuned pipeline's answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tailcut.engines.base import Engine
from tailcut.engines.samples import likely_samples
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.describe import rows_of_data
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.model import PipelineModel
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.gate import Gate
from tailcut.tuner.learning import Arrays, Learned, made_up
from tailcut.tuner.pipelines.estimating import alike
from tailcut.tuner.questions import ReferenceQuestions
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result_records import RowsDecision

_MOST_REQUESTS = 2048  # of the data
_WALKED = 24  # requests that the steps' own inputs are taken from
_ROWS = 8  # that a stage is asked alone and together
_ADVICE = "if the rows of a request belong together, write @stage(whole_requests=True)"


class Untuned:
    """The pipeline as it is written, as the engine that the right answers come from."""

    def __init__(self, source: str) -> None:
        self.model = PipelineModel.open(source)
        self.spec = self.model.spec

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The answer to one request."""
        return self.model.infer_sync(inputs)

    def close(self) -> None:
        """Leave it open: its steps are measured, too."""


@dataclass(frozen=True, slots=True)
class OpenPipeline:
    """A pipeline that is open.

    Args:
        model: to be closed by the caller.
        learned: signature, requests and accuracy gate.
        inputs: for each step what it was given for some of the requests.
        advice: what may help against wrong answers; empty where nothing is known.
    """

    model: PipelineModel
    learned: Learned
    inputs: list[list[Arrays]]
    advice: str = ""


def learn_pipeline(wanted: TuneRequest, answers_s: float, tell: Callable[[Event], None]) -> OpenPipeline:
    """Open a pipeline, and compute the right answers: those that it gives untuned.

    Args:
        wanted: what the user asked for.
        answers_s: seconds for the right answers.
        tell: called with each phase.

    Raises:
        UsageError: there are no data, and a stage does not take made-up requests.
        TailcutError: the pipeline cannot be opened, or refuses a request of the data.
    """
    tell(Phase("opening the pipeline"))
    untuned = Untuned(str(wanted.model))
    engine = cast(Engine, untuned)  # what is asked of it, it has
    try:
        requests = _requests(engine, wanted)
        tell(Phase(untuned.model.rows.describe()))
        tell(Phase("computing the reference outputs with the untuned pipeline"))
        questions = ReferenceQuestions(lambda: engine, requests, answers_s)
        inputs = walk(untuned.model, requests[:_WALKED])
        mixed = mixing(untuned.model, inputs)
    except TailcutError as error:
        untuned.model.close()
        if wanted.data is not None:
            raise
        raise UsageError(
            f"{wanted.model}: it does not accept generated requests: give real ones with --data ({error})"
        ) from None
    except BaseException:
        untuned.model.close()
        raise
    gate = Gate(questions, wanted.bound, wanted.metric, wanted.seed)
    if gate.random_outputs:
        names = ", ".join(map(repr, gate.random_outputs))
        tell(Phase(f"the pipeline itself is random: two identical requests gave different {names}"))
    for name in mixed:
        tell(Phase(f"{_mixing(name)}, which are merged and split: {_ADVICE}"))
    rows = RowsDecision.of(untuned.model.rows)
    advice = "".join(f"; {_mixing(name)}: {_ADVICE}" for name in mixed)
    return OpenPipeline(untuned.model, Learned(untuned.spec, rows, requests, gate), inputs, advice)


def _mixing(name: str) -> str:
    return f"the answers of stage {name!r} to rows depend on the rows beside them"


def walk(model: PipelineModel, requests: Sequence[Arrays]) -> list[list[Arrays]]:
    """What each step is given for these requests.

    Raises:
        TailcutError: a step refuses one.
    """
    inputs: list[list[Arrays]] = [[] for _ in model.entry.steps]
    for request in requests:
        tensors = dict(request)
        for given, step in zip(inputs, model.entry.steps, strict=True):
            given.append({name: tensors[step.input_called(name)] for name in step.model.spec.input_names})
            # The model of a stage would split a request whose rows belong together.
            answer = step.model.infer_sync(given[-1]) if step.engine is None else step.engine.run(given[-1])
            tensors |= {step.output_called(name): array for name, array in answer.items()}
    return inputs


def mixing(model: PipelineModel, inputs: Sequence[Sequence[Arrays]]) -> list[str]:
    """The stages whose answer to a row depends on the rows beside it, although they do not say `whole_requests`.

    Rows are asked alone and together, twice each: a stage that does not repeat its own answers is not judged.
    """
    return [
        step.name
        for step, given in zip(model.entry.steps, inputs, strict=True)
        if step.engine is not None and not step.whole_requests and _mixes(step.engine, alike(given))
    ]


def _mixes(engine: StageEngine, given: Sequence[Arrays]) -> bool:
    rows = [
        {name: array[row : row + 1] for name, array in request.items()}
        for request in given[:_ROWS]
        for row in range(len(next(iter(request.values()))))
    ][: min(_ROWS, engine.stage.max_batch_size)]

    try:
        return engine.is_mixing(rows)
    except TailcutError:
        return False


def _requests(engine: Engine, wanted: TuneRequest) -> list[Arrays]:
    if wanted.data is not None:
        return rows_of_data(engine.spec, wanted.data, _MOST_REQUESTS)
    samples = likely_samples(engine.spec)  # tried once: each refusal of a function would be a traceback in the log
    return made_up(samples, wanted.seed)
