"""Several configurations in one server, simulated: their queues share an event loop and cores. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.kernels import sharing
from tailcut.tuner.simulate import DISPATCH, SMALLEST, Configuration, Prediction, costs_of


@dataclass(frozen=True, slots=True)
class CoTenant:
    """One model's configuration among others.

    Args:
        configuration: how it is served; its own number of cores does not count here.
        spin_ns: how long its engine's idle threads spin after each batch, during which other models lack these cores.
    """

    configuration: Configuration
    spin_ns: int = 0


def prepare() -> None:
    """Compile or load the event loop of several models."""
    simulate_together([CoTenant(SMALLEST)], [np.zeros(1, np.int64)], 1.0)


def simulate_together(
    members: Sequence[CoTenant], arrivals_ns: Sequence[np.ndarray], cores: float, seed: int = 0
) -> list[Prediction]:
    """Simulate the open loops of several models on shared cores.

    Args:
        members: the models' configurations.
        arrivals_ns: of each model, in the same order: int64 [requests], ascending.
        cores: number of cores that all models share with the event loop.
        seed: of the service times that are drawn.
    """
    counts = [len(arrivals) for arrivals in arrivals_ns]
    models = np.repeat(np.arange(len(members)), counts)
    times = np.concatenate([*arrivals_ns, np.empty(0, np.int64)]).astype(np.int64)
    mixes = [member.configuration.mix for member in members]
    keys = [mix.keys(count, seed + number) for number, (mix, count) in enumerate(zip(mixes, counts, strict=True))]
    order = np.argsort(times, kind="stable")
    latencies, totals = np.zeros(len(times), np.int64), np.zeros((len(members), sharing.TOTALS))
    costs, shapes, sizes, service, best, estimate = _tables(members)
    due, models, shaped = times[order], models[order], np.concatenate([*keys, np.empty(0, np.int64)])[order]
    sharing.run(
        due, models, shaped, costs, shapes, sizes, service, best, estimate, float(cores), seed, latencies, totals
    )
    return [_prediction(due, latencies, models == number, totals[number]) for number in range(len(members))]


def _tables(members: Sequence[CoTenant]) -> tuple[np.ndarray, ...]:
    """The arguments costs, shapes, sizes, times, best and estimate of `sharing.run`: a row for each model."""
    tables = [member.configuration.service.worth_taking(member.configuration.max_batch_size) for member in members]
    services = [member.configuration.service for member in members]
    count, largest = len(members), max(len(best) for best, _ in tables)
    most, draws = (
        max(len(service.sizes) for service in services),
        np.lcm.reduce([service.quantiles_ns.shape[1] for service in services]),
    )
    costs = np.array([costs_of(member.configuration) for member in members])
    shapes = np.zeros((count, sharing.SHAPES), np.int64)
    sizes, times = np.ones((count, most), np.int64), np.zeros((count, most, draws))
    best, estimate = np.zeros((count, largest), np.int64), np.zeros((count, largest))
    for number, (member, (own_best, own_estimate)) in enumerate(zip(members, tables, strict=True)):
        configuration, service = member.configuration, member.configuration.service
        shapes[number, sharing.DISPATCH] = DISPATCH[configuration.dispatch]
        shapes[number, sharing.INSTANCES] = configuration.instances
        shapes[number, sharing.THREADS], shapes[number, sharing.SPIN] = service.threads, member.spin_ns
        shapes[number, sharing.LARGEST] = configuration.max_batch_size
        shapes[number, sharing.SIZES], shapes[number, sharing.QUEUE] = len(service.sizes), configuration.queue_rows
        sizes[number, : len(service.sizes)] = service.sizes
        repeated = draws // service.quantiles_ns.shape[1]  # keeps the quantiles equally likely
        times[number, : len(service.sizes)] = np.repeat(service.quantiles_ns, repeated, axis=1)
        best[number, : len(own_best)], estimate[number, : len(own_estimate)] = own_best, own_estimate
    return costs, shapes, sizes, times, best, estimate


def _prediction(arrivals: np.ndarray, latencies: np.ndarray, mine: np.ndarray, totals: np.ndarray) -> Prediction:
    own, arrived = latencies[mine], arrivals[mine]
    answered = own >= 0
    duration_ns = int((arrived + np.maximum(own, 0)).max(initial=0)) - int(arrived[0]) if len(arrived) else 0
    loop_s, engine_s = totals[sharing.LOOP_NS] / 1e9, totals[sharing.ENGINE_NS] / 1e9
    return Prediction(
        own[answered], int((~answered).sum()), duration_ns / 1e9, loop_s, engine_s, int(totals[sharing.BATCHES])
    )
