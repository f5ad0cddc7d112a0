"""What a tune reports to its observer: values only, because the tuner knows no terminal."""

from dataclasses import dataclass

from tailcut.tuner.result_records import Candidate


@dataclass(frozen=True, slots=True)
class Phase:
    """A step outside the rungs has begun."""

    text: str


@dataclass(frozen=True, slots=True)
class RungStarted:
    """A rung is about to be measured; `candidates` is how many it will try."""

    name: str
    candidates: int


@dataclass(frozen=True, slots=True)
class CandidateStarted:
    """A candidate is being tried."""

    rung: str
    setting: str


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """A candidate has a verdict; the record is the one in the result."""

    rung: str
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class RungDone:
    """A rung is done: what was kept, or why nothing was."""

    name: str
    kept: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Estimated:
    """Some more configurations have been estimated."""

    count: int


@dataclass(frozen=True, slots=True)
class Best:
    """The best configuration so far, and its score in words."""

    setting: str
    score: str


@dataclass(frozen=True, slots=True)
class ExpectedTime:
    """How long the whole tune is expected to take, if that differs from the budget."""

    seconds: float


Event = Phase | Estimated | Best | ExpectedTime | RungStarted | CandidateStarted | CandidateDone | RungDone
