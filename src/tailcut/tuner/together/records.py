"""What a joint tune is asked for, and what it comes to."""

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
        models: each with its rate, and its limit where the user named one.
        arrivals: of each model.
        budget_s: for everything; the p99 of a slow model may take longer.
        seed: of arrival times.
        began: on the monotonic clock; None: when the search begins.
    """

    models: tuple[TuneRequest, ...]
    arrivals: tuple[Arrivals, ...]
    budget_s: float = 120.0
    seed: int = 0
    began: float | None = None


@dataclass(slots=True)
class JointSide:
    """One model in a joint tune, and what was found of it."""

    name: str
    arrivals: Arrivals
    limit_ms: float  # of its p99: the user's, or the baseline's own beside the others
    slo_ms: float | None
    inputs: Sequence[str]
    outputs: Sequence[str]
    rows: RowsDecision
    base: Settings  # of the baseline
    profile: Profile  # with the settings found
    copy_bytes: bytes = b""  # of the copy that the profile runs
    accuracy: Accuracy | None = None  # of the verification
    runs: dict[str, ArmRuns] = field(default_factory=dict)  # by arm
    not_kept: str = ""  # the setting that was verified, where the defaults were taken instead

    @property
    def unchanged(self) -> bool:
        """Whether nothing was kept: its profile has the baseline's settings; as in a tune of one, but for the wire."""
        return with_wire(self.profile.settings, self.base.io.wire) == self.base

    @property
    def wrong(self) -> str:
        """What it answers wrongly, in one line; empty where nothing is."""
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
    alone: Combination = ()  # of what is best for each model by itself
    rejected: list[tuple[Combination, str]] = field(default_factory=list)  # and why
    noise: Noise = field(default_factory=Noise)
    cpu_share: dict[str, float] = field(default_factory=dict)  # cores that each arm's server used
    not_kept: NotKept | None = None  # the combination that was verified, where the defaults were taken instead
    interrupted: bool = False
    took_s: float = 0.0

    @property
    def nothing_won(self) -> bool:
        """Whether the user stopped it before anything raced."""
        return self.interrupted and not self.contested

    @property
    def wrong(self) -> str:
        """What the verification found wrong; empty where nothing is."""
        return next((side.wrong for side in self.sides if side.wrong), "")
