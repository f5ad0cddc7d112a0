"""What a tune knows of a pipeline before it measures: signature, requests, and the untuned pipeline's answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np

from tailcut.engines.base import Engine
from tailcut.engines.samples import likely_samples
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.describe import rows_of_data
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.model import PipelineModel, pipeline_profile
from tailcut.pipelines.tuned import settings_of
from tailcut.runtime.profile import Profile
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.gate import Gate
from tailcut.tuner.learning import Arrays, Learned, made_up
from tailcut.tuner.pipelines.estimating import alike
from tailcut.tuner.pipelines.space import with_processes
from tailcut.tuner.questions import ReferenceQuestions
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result_records import RowsDecision

_MOST_REQUESTS = 2048  # of the data
_WALKED = 24  # requests from which the inputs of each step are computed
_ROWS = 8  # rows that a stage computes alone and together
_ADVICE = "if the rows of a request belong together, write @stage(whole_requests=True)"


class Untuned:
    """The pipeline as written, in the form of an engine that computes the reference answers; each step by itself."""

    def __init__(self, source: str) -> None:
        profile = untuned_profile(source)
        self.model = PipelineModel.open(msgspec.structs.replace(profile, settings=with_processes(profile.settings, 0)))
        self.spec = self.model.spec

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The answer to one request."""
        return self.model.infer_sync(inputs)

    def close(self) -> None:
        """Do nothing: the pipeline stays open, because its steps are measured next."""


@dataclass(frozen=True, slots=True)
class OpenPipeline:
    """An open pipeline, and what a tune knows of it.

    Args:
        model: the pipeline; the caller closes it.
        learned: signature, requests and accuracy gate.
        inputs: for each step, its inputs for some of the requests.
        advice: what may help against wrong answers; empty if nothing is known.
    """

    model: PipelineModel
    learned: Learned
    inputs: list[list[Arrays]]
    advice: str = ""


def learn_pipeline(wanted: TuneRequest, answers_s: float, tell: Callable[[Event], None]) -> OpenPipeline:
    """Open a pipeline, and compute the reference answers: those of the untuned pipeline.

    Args:
        wanted: what the user asked for.
        answers_s: seconds for computing the reference answers.
        tell: called with each phase.

    Raises:
        UsageError: there are no data, and a stage does not accept generated requests.
        TailcutError: the pipeline cannot be opened, or rejects a request of the data.
    """
    tell(Phase("opening the pipeline"))
    untuned = Untuned(str(wanted.model))
    engine = cast(Engine, untuned)  # it has all that is used of an engine
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
            f"{wanted.model} does not accept generated requests: give real ones with --data ({error})"
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


def untuned_profile(source: str) -> Profile:
    """The profile of a pipeline as written, with the settings of its steps.

    Raises:
        UsageError: the file raises, or has no such pipeline.
        TailcutError: a file of a step is missing.
    """
    path = parse_path(source)
    profile = pipeline_profile(source)
    own = settings_of(load_pipeline(path), path)
    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, pipeline=own))


def _mixing(name: str) -> str:
    return f"the answers of stage {name!r} to rows depend on the rows beside them"


def walk(model: PipelineModel, requests: Sequence[Arrays]) -> list[list[Arrays]]:
    """The inputs of each step for these requests.

    Raises:
        TailcutError: a step rejects one.
    """
    inputs: list[list[Arrays]] = [[] for _ in model.entry.steps]
    for request in requests:
        tensors = dict(request)
        for given, step in zip(inputs, model.entry.steps, strict=True):
            given.append({name: tensors[called] for name, called in step.inputs})
            # The model of a stage would split a request whose rows belong together.
            answer = step.model.infer_sync(given[-1]) if step.engine is None else step.engine.run(given[-1])
            tensors |= zip(step.outputs, (answer[name] for name in step.model.spec.output_names), strict=True)
    return inputs


def mixing(model: PipelineModel, inputs: Sequence[Sequence[Arrays]]) -> list[str]:
    """The stages whose answer to a row depends on other rows, although they are not declared `whole_requests`.

    Rows are computed alone and together, twice each; a stage that does not reproduce its own answers is not judged.
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
    samples = likely_samples(engine.spec)  # untried: each failure would log a traceback
    return made_up(samples, wanted.seed)
