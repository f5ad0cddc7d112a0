"""The autoscaler's rule, and the figure that it goes by. Pure: Serve's controller imports it.

Requests on the way that clients take directly never pass Serve, so Serve's own count of requests in flight misses them.
Replicas report what their server counted instead, whichever way requests came.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tailcut.ray.plan import CarriedLoad

METRIC = "tailcut_ongoing"
_BUSY = 0.7  # of an event loop's time: more replicas from here on, as with Kubernetes' autoscalers
_REQUESTS, _SECONDS = "nv_inference_request_success", "nv_inference_request_duration_us"
_LOOP, _LOOPS = "tailcut_loop_busy_us_total", "tailcut_loops"


class AnswerCounts(NamedTuple):
    """What a server has counted until a time: answered requests, their time in it, and its event loops' own time."""

    at_s: float
    requests: float
    seconds: float
    loop_s: float = 0.0  # for each of its event loops


def read_counts(text: str, at_s: float) -> AnswerCounts:
    """The counts of all models of a server from what it answers to GET /metrics."""
    sums = dict.fromkeys((_REQUESTS, _SECONDS, _LOOP, _LOOPS), 0.0)
    for line in text.splitlines():
        words, _, value = line.rpartition(" ")
        name = words.partition("{")[0]
        if name in sums:
            sums[name] += float(value)
    return AnswerCounts(at_s, sums[_REQUESTS], sums[_SECONDS] / 1e6, sums[_LOOP] / 1e6 / max(1.0, sums[_LOOPS]))


def ongoing(before: AnswerCounts, now: AnswerCounts, carried: "CarriedLoad") -> float:
    """Requests in flight at a server, averaged over the time between two counts.

    By Little's law it is the time that requests spent in the server, per time that passed. A server that computes on
    its event loop leaves waiting requests in the kernel's buffers, where it cannot count them. It is known by its rate,
    where that was measured, and by the time of its event loop: a loop that is busy for seven tenths of the time is one
    replica's share.

    Args:
        before, now: the counts.
        carried: what one replica carries.
    """
    passed_s = now.at_s - before.at_s
    if passed_s <= 0 or now.requests < before.requests:  # the counts of a model that was loaded again start at 0
        return 0.0
    counted = max(0.0, now.seconds - before.seconds) / passed_s
    busy = max(0.0, now.loop_s - before.loop_s) / passed_s
    by_loop = carried.target_ongoing * busy / _BUSY
    by_rate = 0.0
    if carried.rate and carried.ongoing:
        by_rate = carried.ongoing * (now.requests - before.requests) / passed_s / carried.rate
    return max(counted, by_loop, by_rate)


def replicas(context: Any) -> tuple[float, dict[str, Any]]:
    """How many replicas the requests in flight need, as a policy of Ray Serve's autoscaler.

    Args:
        context: Serve's `AutoscalingContext`. Of it are read the replicas' reports, averaged over the window; the
            requests that wait at callers because every replica has as many as it takes; and the target.

    Returns:
        The number before Serve's own limits and delays, and no state.
    """
    reports = (context.aggregated_metrics or {}).get(METRIC) or {}
    waiting = context.total_queued_requests or 0.0
    return (sum(reports.values()) + waiting) / context.config.target_ongoing_requests, {}
