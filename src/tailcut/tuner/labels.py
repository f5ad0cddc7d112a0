"""Accuracy by the data's labels: both servers get the same requests, as many as a share of the budget allows."""

import random
import time
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from tailcut.errors import TailcutError
from tailcut.lab.burst import Burst, BurstAnswer
from tailcut.lab.payload import infer_payload
from tailcut.runtime.settings import Settings
from tailcut.tuner.accuracy import labelled
from tailcut.tuner.learning import Arrays
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.records import LabelledShares
from tailcut.tuner.session import TuneSession

_TOGETHER = 16  # requests in flight; fewer of a slow model


def by_labels(session: TuneSession, settings: Mapping[str, Settings], labels: np.ndarray) -> LabelledShares | None:
    """Send the same requests to every arm, alternately; a random sample if there is no time for all.

    Args:
        session: of the tune.
        settings: of each arm, whose server is running.
        labels: integers [requests, labels], in the order of the requests.

    Returns:
        The share of rows that each arm labels correctly; None if no output looks like class scores.

    Raises:
        TailcutError: a server rejects a request, or exits.
    """
    seconds = session.plan.labels_s
    together = max(1, min(_TOGETHER, int(seconds * session.outcome.capacity / 4))) if session.outcome.capacity else 1
    order = list(range(len(session.requests)))
    random.Random(session.wanted.seed).shuffle(order)  # noqa: S311  an order, no secret
    answers: dict[str, list[Arrays]] = {name: [] for name in settings}
    asked: list[int] = []
    began = time.monotonic()
    with ExitStack() as stack:
        bursts = {name: stack.enter_context(Burst(session.servers.of(own).target)) for name, own in settings.items()}
        for start in range(0, len(order), together):
            round_began = time.monotonic()
            group = order[start : start + together]
            for name, burst in bursts.items():
                answers[name] += _answers(session, burst, settings[name], [session.requests[index] for index in group])
            asked += group
            now = time.monotonic()
            if 2 * now - round_began > began + seconds:
                break
    shares = {name: labelled(outputs, labels[asked]) for name, outputs in answers.items()}
    known = {name: share for name, share in shares.items() if share is not None}
    return LabelledShares(known, len(asked)) if len(known) == len(shares) else None


def _answers(session: TuneSession, burst: Burst, settings: Settings, requests: list[Arrays]) -> list[Arrays]:
    """One server's answers; a request that fails among others is sent once more, alone."""
    spec, fold = session.spec, settings.engine.u8_input
    target = session.servers.of(settings).target
    sent = requests if fold is None else [as_pixels(fold, spec, request) for request in requests]
    payloads = [infer_payload(target, spec.name, request, "binary") for request in sent]
    replies = burst.ask(payloads)
    return [
        _outputs(reply if reply.status == 200 else burst.ask([payload])[0])
        for reply, payload in zip(replies, payloads, strict=True)
    ]


def _outputs(reply: BurstAnswer) -> Arrays:
    if reply.status != 200:
        raise TailcutError(f"the server answers {reply.status or 'nothing'}: {reply.message}")
    return reply.outputs
