"""The overhead of requests for one model's tune: measured once, reused from the journal, or assumed."""

import time
from collections.abc import Sequence
from dataclasses import replace

from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.events import Phase
from tailcut.tuner.session import TuneSession
from tailcut.tuner.simulate import Ways
from tailcut.tuner.space import SpaceFacts, wirings
from tailcut.tuner.ways import (
    PROBED,
    USUAL,
    measure_ways,
    measured_wiring,
    real_engines,
    way_settings,
    wiring_settings,
)

SLOW_CALL_NS = 2_500_000  # with longer calls, the overhead of a request is a few per cent


def with_wiring(session: TuneSession, facts: SpaceFacts) -> SpaceFacts:
    """The facts with the fastest wire and socket, measured if there are several."""
    if len(wirings(facts)) == 1:
        return facts
    settings = wiring_settings(facts)
    wiring = session.journal.wiring(settings)
    if wiring is None:
        session.tell(Phase("measuring transports: encodings, Unix sockets, shared memory"))
        wiring = measured_wiring(session.servers, facts, session.plan.way_s)
        session.servers.keep(session.base)
        session.journal.add_wiring(settings, wiring)
    session.tell(Phase(f"the fastest transport is {wiring.wire} over {wiring.socket}"))
    return replace(facts, wiring=wiring)


def ways_of(session: TuneSession, facts: SpaceFacts, estimates: Sequence[EngineEstimate]) -> Ways:
    """The overhead of a request over the fastest wire with each dispatch, and what real engines add to it.

    Args:
        session: of the tune.
        facts: of model and machine, with the fastest wire.
        estimates: of all engine configurations that were measured.
    """
    settings = {name: way_settings(facts, name) for name in PROBED}
    engines = real_engines(estimates)
    known = {
        name: way for name, own_settings in settings.items() if (way := session.journal.way(own_settings)) is not None
    }
    names = [str(engine.options.name) for engine in engines]
    slower = {name: engine_ns for name in names if (engine_ns := session.journal.engine_ns(name)) is not None}
    if len(known) == len(settings) and len(slower) == len(names):
        session.tell(Phase(f"reusing the measured cost of receiving requests from {session.journal.name}"))
        return Ways(known, slower)
    reason = _unmeasured(session, estimates)
    if reason:
        session.tell(Phase(f"assuming the usual cost of receiving requests: {reason}"))
        for name, way in USUAL.items():
            session.journal.add_way(settings[name], way, measured=False)
        return Ways(USUAL, dict.fromkeys(names, 0))
    session.tell(Phase("measuring the cost of receiving requests, with an engine that computes nothing"))
    ways = measure_ways(session.servers, settings, session.plan.way_s, engines)
    session.servers.keep(session.base)
    for name, way in ways.by_dispatch.items():
        session.journal.add_way(settings[name], way)
    for engine in engines:
        session.journal.add_engine_ns(engine.options, ways.engine_ns[engine.options.name])
    return ways


def _unmeasured(session: TuneSession, estimates: Sequence[EngineEstimate]) -> str:
    """Why the cost of receiving requests is not measured, as a message; empty if it is."""
    if min(estimate.alone_ns for estimate in estimates) >= SLOW_CALL_NS:
        return "the model's calls take far longer"
    late = not session.wanted.exhaustive and time.monotonic() > session.plan.race_until
    return "there is no time left to measure it" if late else ""
