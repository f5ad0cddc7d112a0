"""The bare models of a `tailcut serve`: their settings are measured and logged once per file.

A measurement is reused for every later load of the same file, by a signal or by a client, alone or beside other models,
and for all workers of a server: unless a file has changed, nothing is measured while the server is busy.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tailcut.cli.serving.sources import Source

if TYPE_CHECKING:
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.model import Model
    from tailcut.runtime.opening.defaults import DefaultChoice, ServingPlace
    from tailcut.runtime.profile import Profile
    from tailcut.server.served_model import ServedModel
    from tailcut.server.workers.process import WorkerProcess

_log = logging.getLogger("tailcut")


class BareModels:
    """Opens bare models with measured settings.

    Args:
        sources: the SOURCEs to measure; they share the time budget.
        around: the process and machine in which they serve; the number of models is passed with each load.
        known: earlier choices by the hash of the model file; these are not logged again.
    """

    def __init__(self, sources: Sequence[Source], around: "ServingPlace", known: "Mapping[str, DefaultChoice]") -> None:
        self._sources = frozenset(sources)
        self._around = around
        self._known = dict(known)
        self._logged = set(known)
        self._serving = False

    @classmethod
    def among(
        cls, sources: Sequence[Source], max_batch_size: int | None, worker: "WorkerProcess | None"
    ) -> "BareModels":
        """The bare models among the SOURCEs of a command line."""
        from tailcut.runtime.opening.measured import surroundings

        bare = [source for source in sources if source.is_bare]
        cpus = None if worker is None else worker.cpus
        around = surroundings(cpus, max_batch_size=max_batch_size)
        return cls(bare, around, {} if worker is None else worker.choices)

    def has(self, source: Source) -> bool:
        """Whether a SOURCE is measured."""
        return source in self._sources

    def open(self, profile: "Profile", limits: "Limits", models: int) -> "Model":
        """Load a bare model, one of `models`, with measured settings, which are reused if this file was loaded before.

        Raises:
            ModelFileError: the model is missing, empty or corrupt.
            UnsupportedError: batching is on but the model's signature rules it out.
        """
        from tailcut.runtime.model import chosen_model, measured_model
        from tailcut.runtime.opening.measured import BUDGET_S

        choice = self._known.get(profile.model.sha256)
        if choice is None:
            around, budget_s = replace(self._around, alone=models == 1), BUDGET_S / len(self._sources)
            model = measured_model(profile, around, limits=limits, budget_s=budget_s)
            if model.choice is not None:
                self._known[profile.model.sha256] = model.choice
        else:
            model = chosen_model(profile, choice.among(models).within(self._around), limits)
        if self._serving:
            self._log_one(profile.model.name, model)
        return model

    def log(self, models: "Sequence[ServedModel]") -> None:
        """Log the choice for each model in one line; from now on also for each model loaded later."""
        self._serving = True
        for served in models:
            self._log_one(served.name, served.model)

    def _log_one(self, name: str, model: "Model") -> None:
        sha256 = model.profile.model.sha256
        if model.choice is not None and sha256 not in self._logged:
            self._logged.add(sha256)
            _log.info("%s: %s", name, model.choice.line())
