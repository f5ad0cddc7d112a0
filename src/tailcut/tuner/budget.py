"""How a tune spends its time: pure arithmetic; `now` is an argument.

Each phase has a share of the budget and a time by which it ends; time that a phase does not use goes to later ones. The
verification is planned first, because its claims must hold: for a slow model it may take up to 37 % of the budget, and
the search is shorter by as much. Where the p99 would take even longer, a p95 or the median is verified instead.
"""

from dataclasses import dataclass, field

_ANSWERS, _CAPACITY, _ESTIMATE, _WAY, _CHECK = 0.06, 0.03, 0.20, 0.015, 0.01  # shares of the budget
_CALIBRATE, _LEAST_CALIBRATE_S = 0.12, 2.4
_BASELINE_END, _ESTIMATE_END = 0.25, 0.45  # of the budget, counted from its beginning
_RACE_END, _REFINE_END, _EXPLAIN_END = 0.58, 0.64, 0.75  # likewise
_EXPLAIN = _EXPLAIN_END - _REFINE_END
_VERIFY = 1 - _EXPLAIN_END
_LEAST_VERIFY, _MOST_VERIFY = 0.15, 0.37
_WRAP_UP, _MOST_WRAP_UP_S = 0.05, 2.0
_LATE, _OVER = 0.04, 0.06  # of the budget
_REPORTED, _NAMED = 0.10, 0.03  # of the budget: a later end is reported, with the phases that took longer
MOMENT_S = 2.5  # by which a short budget may be exceeded to know a p99
_STARTING = 0.65  # of the time until the race ends, to start servers in
_FEWEST_FINALISTS, _WANTED_FINALISTS = 2, 5
_HEAT_ANSWERS = 14  # of each finalist in a heat, about
_BLOCK, _LEAST_BLOCK_S, _BLOCK_S = 1 / 240, 0.12, 0.2
_LEAST_RACE = 0.10  # of the budget, once the finalists run
_LEAST_ESTIMATE = 0.08
_RECEIVING, _MOST_RECEIVING_S = 0.07, 8.0  # of the budget, to measure the cost of receiving requests after the engines
_SIMULATING, _MOST_SIMULATING_S = 0.02, 2.5
_QUICK = 400.0  # requests per second of the baseline, with fewer of which that cost is assumed
_USAGE = 0.04  # of the budget, to measure CPU and memory of configurations that are equal
_LABELS = 0.04  # likewise, for answers that are compared with labels
_FEWEST_ENGINES, _ENGINE_S = 3, 2.5
_WARM_UP, _LEAST_WARM_UP_S, _MOST_WARM_UP_S = 0.0125, 0.5, 10.0  # of the budget, for each server that races
_MOST_CAPACITY_S, _MOST_CHECK_S, _MOST_LAST_CHECK_S, _MOST_WAY_S, _MOST_REFINEMENT_S = 2.0, 1.5, 8.0, 2.0, 2.0

_FINALISTS, _HEATS, _HEAT_CALLS, _LEAST_HEAT_S = 8, 12, 3, 0.12
_REFINEMENTS = 8
_STEP_ROUNDS, _STEP_CALLS, _LEAST_STEP_S = 3, 240, 0.3  # of the rungs
_ENGINE_CALLS, _LEAST_ENGINE_S = 24, 0.25  # of one configuration in process
_MOST_ENGINE_S, _MOST_ENGINE_CALLS = 2.0, 100  # likewise, at most: more time here helps less than a longer race
_LOADING = 0.6  # of the time that a server takes to start
_WAYS, _WAY_SERVERS = 2, 4


@dataclass(frozen=True, slots=True)
class SearchSize:
    """How much of a search space is worth measuring.

    Args:
        estimates: configurations to measure in process.
        prepared_s: time taken before by copies of the model and by measuring the cost of receiving requests.
    """

    estimates: int
    prepared_s: float = 0.0


def complete_s(size: SearchSize, rungs: int, start_s: float, capacity: float) -> float:
    """Seconds for everything between the first measurement and the verification, if nothing is left out.

    Args:
        size: of the search space.
        rungs: number of rungs to measure.
        start_s: until a server is ready.
        capacity: requests per second of the baseline.
    """
    call_s = 1 / max(capacity, 1e-9)
    heats_s = _FINALISTS * _HEATS * max(_LEAST_HEAT_S, _HEAT_CALLS * call_s)
    race_s = _FINALISTS * (start_s + _MOST_CHECK_S) + heats_s
    refine_s = _REFINEMENTS * (start_s + _MOST_REFINEMENT_S)
    explain_s = rungs * start_s + (rungs + 1) * _STEP_ROUNDS * max(_LEAST_STEP_S, _STEP_CALLS * call_s)
    return estimating_s(size, start_s, capacity) + race_s + refine_s + explain_s


def estimating_s(size: SearchSize, start_s: float, capacity: float) -> float:
    """Seconds of a complete search before its race; the arguments are those of `complete_s`."""
    call_s = 1 / max(capacity, 1e-9)
    engine_s = _LOADING * start_s / 2 + max(_LEAST_ENGINE_S, _ENGINE_CALLS * call_s)
    return size.prepared_s + size.estimates * engine_s


def joint_race_s(combinations: int, models: int, start_s: float, block_s: float) -> float:
    """Seconds that a joint tune's race takes if nothing is left out.

    Args:
        combinations: number that race.
        models: number in each server.
        start_s: until a server with all of them is ready.
        block_s: of one combination in one heat.
    """
    return combinations * (start_s + models * _MOST_CHECK_S + _HEATS * block_s)


def ways_s(start_s: float) -> float:
    """Seconds that measuring the cost of receiving requests takes."""
    return _WAYS * _MOST_WAY_S + _WAY_SERVERS * start_s / 2


@dataclass(slots=True)
class TimePlan:
    """The phases of one tune; times are seconds of a monotonic clock."""

    began: float
    budget_s: float
    verify_s: float = 0.0
    needed_s: float = 0.0  # the part of `verify_s` that a p99 of each arm takes
    extra_s: float = 0.0  # that the user granted beyond the budget
    longer_s: dict[str, float] = field(default_factory=dict)  # how much longer than planned, by phase
    _late_s: float = 0.0  # after the last phase that has ended

    def __post_init__(self) -> None:
        """Give the verification at least its share."""
        self.verify_s = max(self.verify_s, _VERIFY * self.budget_s)

    @property
    def expected_s(self) -> float:
        """Seconds of the whole tune: more than the budget where the verification needs more than its largest share."""
        return self._search_s * (_EXPLAIN_END / (1 - _VERIFY)) + self.verify_s

    @property
    def engines(self) -> int:
        """How many engine configurations are measured: loading one takes about half a second."""
        return int(max(_FEWEST_ENGINES, self.budget_s / _ENGINE_S))

    def finalists(self, now: float, start_s: float, most: int) -> int:
        """How many configurations there is time to start; `start_s` is what one takes."""
        left_s = _STARTING * (self.race_until - now)
        return max(_FEWEST_FINALISTS, min(most, int(left_s / max(self._entering_s(start_s), 1e-9))))

    @property
    def most_verify_s(self) -> float:
        """The most that the verification may take of the budget."""
        return _MOST_VERIFY * self.budget_s

    def needs_verification_s(self, seconds: float, before_s: float = 0.0, good_s: float = 0.0) -> None:
        """Reserve time for the verification, at the expense of the search.

        Args:
            seconds: for a p99 of each arm.
            before_s: for what precedes it.
            good_s: for both headlines on a noisy machine, as far as the budget allows.
        """
        self.needed_s = seconds
        self.verify_s = max(self.verify_s, seconds + before_s, min(good_s, self.most_verify_s))

    @property
    def end(self) -> float:
        """When the last measurement ends, so that time is left for the result and the report."""
        return self.began + self.extra_s + self.budget_s - min(_MOST_WRAP_UP_S, _WRAP_UP * self.budget_s)

    @property
    def latest(self) -> float:
        """When the verification ends even with few rounds, as soon as its percentiles are known."""
        return self.end + _LATE * self.budget_s

    @property
    def limit(self) -> float:
        """When the verification ends, whatever is known by then."""
        return self.began + self.extra_s + (1 + _OVER) * self.budget_s

    def race_ended(self, now: float) -> None:
        """Extend the plan by what an exhaustive race took longer, so that later phases keep their time."""
        self.extra_s += max(0.0, now - self.race_until)

    def phase_ended(self, name: str, now: float, until: float) -> None:
        """Record how much longer than planned a phase took that was to end at `until`."""
        late_s = max(0.0, now - until)
        if late_s > self._late_s:
            self.longer_s[name] = self.longer_s.get(name, 0.0) + late_s - self._late_s
        self._late_s = late_s

    def late_words(self, now: float) -> str:
        """A message that the tune ends late, with the phases that took longer than planned; empty if it hardly is."""
        spent_s = self.spent_s(now) - self.extra_s
        if spent_s <= (1 + _REPORTED) * self.budget_s:
            return ""
        longest = sorted(self.longer_s.items(), key=lambda item: -item[1])
        phases = [f"{name} {seconds:,.0f} s" for name, seconds in longest if seconds >= _NAMED * self.budget_s]
        reason = f": longer than planned were {', '.join(phases)}" if phases else ""
        return f"the tune took {spent_s:,.0f} s with --budget {self.budget_s:g}s{reason}"

    @property
    def baseline_until(self) -> float:
        """When the baseline has been measured."""
        return self._at(_BASELINE_END)

    @property
    def estimate_until(self) -> float:
        """When everything has been simulated, and servers start for the race."""
        return self._at(_ESTIMATE_END)

    @property
    def answers_s(self) -> float:
        """Seconds for computing the reference answers."""
        return _ANSWERS * self.budget_s

    @property
    def warm_up_s(self) -> float:
        """Seconds that a server that races may take to warm up: enough for the small batches of most models."""
        return max(_LEAST_WARM_UP_S, min(_MOST_WARM_UP_S, _WARM_UP * self.budget_s))

    @property
    def capacity_s(self) -> float:
        """Seconds for measuring the baseline's capacity."""
        return min(_MOST_CAPACITY_S, _CAPACITY * self.budget_s)

    @property
    def estimate_s(self) -> float:
        """Seconds for measuring all engine configurations in process."""
        return _ESTIMATE * self._whole_s

    def estimating_s(self, now: float, start_s: float, count: int, capacity: float) -> float:
        """Seconds for engine configurations from now on: fewer where servers would have too little time to start.

        Args:
            now: on the monotonic clock.
            start_s: seconds that a server takes to start.
            count: number of configurations.
            capacity: requests per second of the baseline.
        """
        enough_s = count * max(_MOST_ENGINE_S, _MOST_ENGINE_CALLS / max(capacity, 1e-9))
        race_s = (_RACE_END - _ESTIMATE_END) * self._whole_s
        finalists = max(1, min(_WANTED_FINALISTS, int(race_s * capacity / _HEAT_ANSWERS)))
        left_s = self.spare_s(now, start_s, finalists) - self._simulating_s
        if capacity > _QUICK:
            left_s -= min(_MOST_RECEIVING_S, _RECEIVING * self.budget_s)
        return min(self.estimate_s, enough_s, max(left_s, _LEAST_ESTIMATE * self._whole_s))

    def spare_s(self, now: float, start_s: float, finalists: int = _WANTED_FINALISTS) -> float:
        """Seconds until the servers of the finalists have to start, each of which takes `start_s`."""
        return self.race_until - now - finalists * self._entering_s(start_s) / _STARTING

    def has_time_for_copies(self, now: float, start_s: float) -> bool:
        """Whether a quantised copy of the model can be made and measured before the race."""
        needed_s = self.calibrate_s + _LEAST_ESTIMATE * self._whole_s
        return self.calibrate_s > 0 and self.spare_s(now, start_s) >= needed_s

    @property
    def calibrate_s(self) -> float:
        """Seconds for a quantised copy of the model; 0 where the budget is too short for one."""
        seconds = _CALIBRATE * self._whole_s
        return seconds if seconds >= _LEAST_CALIBRATE_S else 0.0

    @property
    def way_s(self) -> float:
        """Seconds for one probe of the cost of receiving requests."""
        return min(_MOST_WAY_S, _WAY * self._whole_s)

    @property
    def check_s(self) -> float:
        """Seconds for checking the answers of one candidate."""
        return min(_MOST_CHECK_S, _CHECK * self.budget_s)

    @property
    def last_check_s(self) -> float:
        """Seconds for checking the answers of the winner."""
        return min(_MOST_LAST_CHECK_S, 5 * _CHECK * self.budget_s)

    @property
    def block_s(self) -> float:
        """Least seconds of a closed loop in the race: in a shorter one, half the requests are a connection's first."""
        return min(_BLOCK_S, max(_LEAST_BLOCK_S, _BLOCK * self.budget_s))

    @property
    def refinement_s(self) -> float:
        """Seconds for one refinement."""
        return min(_MOST_REFINEMENT_S, 2 * _CHECK * self.budget_s)

    @property
    def usage_s(self) -> float:
        """Seconds for measuring CPU and memory of configurations that are equal."""
        return _USAGE * self.budget_s

    @property
    def labels_s(self) -> float:
        """Seconds for comparing answers with the data's labels, of the baseline and the winner together."""
        return _LABELS * self.budget_s

    @property
    def race_until(self) -> float:
        """When the race ends."""
        return self._at(_RACE_END)

    def race_ends(self, now: float) -> float:
        """When a race of finalists that are ready now ends: it has some time even if they started slowly."""
        return max(self.race_until, now + _LEAST_RACE * self._whole_s)

    @property
    def refine_until(self) -> float:
        """The time after which no refinement is started."""
        return self._at(_REFINE_END)

    @property
    def explain_until(self) -> float:
        """When the rungs have been measured."""
        return self._at(_EXPLAIN_END)

    @property
    def rungs_until(self) -> float:
        """The latest time for the rungs to end: a fast model's verification can make up for phases that overran."""
        return max(self.explain_until, self.end - max(self.needed_s, _LEAST_VERIFY * self.budget_s))

    @property
    def explain_s(self) -> float:
        """Seconds for measuring the rungs."""
        return _EXPLAIN * self._whole_s

    def verification_s(self, now: float) -> float:
        """Seconds left for the verification: what it needs as far as the budget allows, and a little in any case.

        A p99 that takes only a moment is measured even when a short budget is spent.
        """
        needed_s = min(self.needed_s, max(self.latest - now, MOMENT_S))
        return max(self.end - now, needed_s, _LEAST_VERIFY * self.budget_s / 2)

    def spent_s(self, now: float) -> float:
        """Seconds since the tune began."""
        return now - self.began

    @property
    def _search_s(self) -> float:
        """Seconds for everything before the verification."""
        return self.budget_s - min(self.verify_s, self.most_verify_s)

    @property
    def _whole_s(self) -> float:
        """The budget of which `_search_s` would be the usual share: the phases' shares are of this."""
        return self._search_s / (1 - _VERIFY)

    @property
    def _simulating_s(self) -> float:
        """Seconds for simulating all configurations."""
        return min(_MOST_SIMULATING_S, _SIMULATING * self.budget_s)

    def _entering_s(self, start_s: float) -> float:
        """Seconds for each finalist: it starts while the answers of the one before it are checked."""
        return max(start_s, self.check_s)

    def _at(self, share: float) -> float:
        return self.began + self.extra_s + share * self._whole_s
