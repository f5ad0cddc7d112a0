"""The request for a joint tune, and its outcome."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tailcut.lab.arrivals import Arrivals
from tailcut.lab.trial import ArmRuns
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.noise import Noise
from tailcut.tuner.records import TuneRequest, with_wire
from tailcut.tuner.result_records import NotKept, RowsDecision
from tailcut.tuner.together.selection import Combination, ExpectedCombination

ARMS = ("baseline", "tuned")


@dataclass(frozen=True, slots=True)
class JointWanted:
    """What the user asked for.

    Args:
        models: each with its rate, and its limit if the user gave one.
        arrivals: the arrival process of each model.
        budget_s: for everything; the p99 of a slow model may take longer.
        seed: of arrival times.
        began: start of the budget on the monotonic clock; None: when the search begins.
    """

    models: tuple[TuneRequest, ...]
    arrivals: tuple[Arrivals, ...]
    budget_s: float = 120.0
    seed: int = 0
    began: float | None = None


@dataclass(slots=True)
class JointSide:
    """One model in a joint tune, and its results."""

    name: str
    arrivals: Arrivals
    limit_ms: float  # of its p99: the user's, or the baseline's own under the load of all models
    slo_ms: float | None
    inputs: Sequence[str]
    outputs: Sequence[str]
    rows: RowsDecision
    base: Settings  # of the baseline
    profile: Profile  # with the best settings
    copy_bytes: bytes = b""  # of the copy of the model that the profile uses
    accuracy: Accuracy | None = None  # of the verification
    runs: dict[str, ArmRuns] = field(default_factory=dict)  # by arm
    not_kept: str = ""  # the settings that were verified, if the defaults are kept instead

    @property
    def unchanged(self) -> bool:
        """Whether nothing was gained: the profile has the baseline's settings; the wire does not count."""
        return with_wire(self.profile.settings, self.base.io.wire) == self.base

    @property
    def wrong(self) -> str:
        """What the model answers wrongly, in one line; empty if nothing."""
        if self.accuracy is None or self.accuracy.right:
            return ""
        return (
            f"{self.name}: wrong answers with {self.profile.settings.describe() or 'the default settings'}: "
            f"{self.accuracy.reason}"
        )


@dataclass(slots=True)
class JointOutcome:
    """Everything a joint tune found."""

    sides: list[JointSide]
    simulated: Sequence[ExpectedCombination] = ()
    contested: bool = False  # whether a race began
    raced: dict[Combination, float] = field(default_factory=dict)  # scores on the real server
    alone: Combination = ()  # the best settings of each model on its own
    rejected: list[tuple[Combination, str]] = field(default_factory=list)  # with the reason
    noise: Noise = field(default_factory=Noise)
    cpu_share: dict[str, float] = field(default_factory=dict)  # cores used by each arm's server
    not_kept: NotKept | None = None  # the combination that was verified, if the defaults are kept instead
    interrupted: bool = False
    took_s: float = 0.0

    @property
    def nothing_won(self) -> bool:
        """Whether the user stopped it before anything raced."""
        return self.interrupted and not self.contested

    @property
    def wrong(self) -> str:
        """What the verification found wrong; empty if nothing."""
        return next((side.wrong for side in self.sides if side.wrong), "")
