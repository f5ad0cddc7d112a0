"""A model shared by the tests of a file, because opening it takes longer than most of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings


class OpenedModel:
    """A model's file, opened once for each dispatch, limit and number that a test names; its statistics go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[tuple[str | None, Limits, int], Model] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for model in self._opened.values():
            model.close()

    @contextmanager
    def lent(
        self,
        dispatch: str | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        number: int = 0,
    ) -> Iterator[Model]:
        """The model for one test, with batches of 8 at most; without `dispatch`, as measuring chooses it.

        The model of a failing test may be in any state, and is closed.
        """
        key = dispatch, limits, number
        model = self._opened.pop(key, None) or self._open(dispatch, limits)
        try:
            yield model
        except BaseException:
            model.close()
            raise
        self._opened[key] = model

    def _open(self, dispatch: str | None, limits: Limits) -> Model:
        if dispatch is None:
            return Model.open(self.path, limits=limits)
        settings = Settings(batching=BatchingSettings(max_batch_size=8, dispatch=dispatch))
        return Model.open(Profile.of_model(self.path, settings), limits=limits)
