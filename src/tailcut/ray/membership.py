"""Follows which replicas an application has, and their addresses, through the long poll of Serve's own routers.

Serve's controller answers the poll when the set of replicas that accept requests changes: a replica has become ready,
has died, or is about to stop. The answer includes what each replica published when it started. A thread does the
polling; while the controller cannot be reached, or this process is part of no cluster, the last answer remains valid.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tailcut.client.directory import RAY
from tailcut.client.requests import ServerAddress
from tailcut.errors import InvalidInputError, NotFoundError, TailcutError, UnreachableError
from tailcut.ray.installed import need_ray

PUBLISHED = "tailcut"  # the key under which a replica publishes its address
_POLL_S = 90.0  # longer than the controller delays an answer
_CHECK_S = 1.0  # how often to check that this process is still part of the cluster: after leaving, a poll never ends
_AGAIN_S = 0.5  # how long to wait before polling again after an error
_FIRST_S = 10.0  # how long to wait for the first answer, which comes only once an application has had a replica

Changed = Callable[[Sequence[ServerAddress]], None]


@dataclass(frozen=True, slots=True)
class Name:
    """An application and one of its deployments; empty: the ingress deployment, which receives the requests."""

    application: str
    deployment: str = ""

    @classmethod
    def parse(cls, url: str) -> "Name":
        """Read `ray://APP` or `ray://APP/DEPLOYMENT`.

        Raises:
            InvalidInputError: the URL has neither form.
        """
        application, _, deployment = url.removeprefix(RAY).partition("/")
        if not application or "/" in deployment or not url.startswith(RAY):
            raise InvalidInputError(
                f"{url!r} is not an application of Ray Serve: write ray://APP or ray://APP/DEPLOYMENT"
            )
        return cls(unquote(application), unquote(deployment))

    def __str__(self) -> str:
        """The URL, as a user writes it."""
        return f"{RAY}{self.application}/{self.deployment}" if self.deployment else f"{RAY}{self.application}"


def addresses_of(replicas: Iterable[Any]) -> tuple[ServerAddress, ...]:
    """The addresses of Tailcut replicas, sorted; replicas of other deployments have none.

    Args:
        replicas: the controller's descriptions; `replica_metadata` is what each replica published.
    """
    metadata = [replica.replica_metadata.get(PUBLISHED) for replica in replicas]
    urls = sorted({entry["url"] for entry in metadata if isinstance(entry, dict) and "url" in entry})
    return tuple(map(ServerAddress.parse, urls))


class ReplicaDirectory:
    """A client's directory of the replicas of an application."""

    def __init__(self, name: Name) -> None:
        need_ray()
        self._name = name
        self._stopped = threading.Event()

    @classmethod
    def parse(cls, url: str) -> "ReplicaDirectory":
        """The replicas of `ray://APP` or `ray://APP/DEPLOYMENT`.

        Raises:
            InvalidInputError: the URL has neither form.
            UsageError: Ray is not installed.
        """
        return cls(Name.parse(url))

    def follow(self, changed: Changed) -> None:
        """Call `changed` with the replicas that accept requests, now and, from a thread, whenever they change.

        This process joins the Ray cluster as a driver unless it is already part of one.

        Raises:
            NotFoundError: no application or deployment has that name.
            UnreachableError: there is no Ray cluster, it does not answer, or Serve does not run on it.
        """
        watch = _Watch(self._name, changed, self._stopped)
        if not watch.poll(_FIRST_S):
            changed(())
        threading.Thread(target=watch.run, name=f"tailcut {self._name}", daemon=True).start()

    def close(self) -> None:
        """End the thread after its current poll."""
        self._stopped.set()


class _Watch:
    """The long poll of one deployment."""

    def __init__(self, name: Name, changed: Changed, stopped: threading.Event) -> None:
        from ray.serve._private.common import DeploymentID  # noqa: PLC0415  Ray is an extra
        from ray.serve._private.long_poll import LongPollNamespace  # noqa: PLC0415

        self._changed = changed
        self._stopped = stopped
        self._controller = connect()
        self._session = _session()
        deployment = name.deployment or _ingress(self._controller, name.application)
        identity = DeploymentID(name=deployment, app_name=name.application)
        if name.deployment:
            _check_deployment(self._controller, identity)
        self._key = (LongPollNamespace.DEPLOYMENT_TARGETS, identity)
        self._snapshot = -1

    def poll(self, limit_s: float) -> bool:
        """Wait for an answer and pass it on; whether there was one.

        Raises:
            UnreachableError: the controller cannot be reached, or this process has left its cluster.
        """
        import ray  # noqa: PLC0415

        try:
            # Not ray.get: at exit, Ray ends a process that still has a thread inside that call with code 1.
            future = self._controller.listen_for_change.remote({self._key: self._snapshot}).future()
            answer = self._result(future, time.monotonic() + limit_s)
        except TimeoutError:
            return False
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise UnreachableError(f"the controller of Ray Serve does not answer: {error}") from None
        if not isinstance(answer, dict) or self._key not in answer:  # nothing has changed
            return False
        update = answer[self._key]
        self._snapshot = update.snapshot_id
        self._changed(addresses_of(update.object_snapshot.running_replicas))
        return True

    def run(self) -> None:
        """Poll until stopped; after this process has left its cluster, continue when it joins one again."""
        while not self._stopped.is_set():
            with suppress(UnreachableError):
                if _session() == self._session:
                    self.poll(_POLL_S)
                    continue
            self._stopped.wait(_AGAIN_S)
            session = _session()
            if session is not None and not self._stopped.is_set():
                with suppress(TailcutError):  # Ray restarts the controller, whose snapshot ids begin anew
                    self._controller, self._snapshot, self._session = connect(), -1, session

    def _result(self, future: "Future[Any]", end_s: float) -> Any:
        """Wait for the answer to a poll.

        Raises:
            TimeoutError: there was none by this time.
            UnreachableError: this process has left the cluster.
        """
        while True:
            try:
                return future.result(max(0.0, min(_CHECK_S, end_s - time.monotonic())))
            except TimeoutError:
                if _session() != self._session:
                    raise UnreachableError("this process has left the Ray cluster") from None
                if time.monotonic() >= end_s:
                    raise


def _session() -> str | None:
    """Id of this process's session on a Ray cluster; None: it is part of none."""
    import ray  # noqa: PLC0415

    return str(ray.get_runtime_context().get_job_id()) if ray.is_initialized() else None


def connect() -> Any:
    """Find the controller of Serve on this process's cluster, which it joins as a driver if it is part of none.

    Raises:
        UnreachableError: there is no Ray cluster, it does not answer, or Serve does not run on it.
        UsageError: Ray is not installed.
    """
    need_ray()
    import ray  # noqa: PLC0415
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE  # noqa: PLC0415

    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UnreachableError(
                "no Ray cluster can be reached from here: start one with ray start --head, or set RAY_ADDRESS, and "
                f"RAY_AUTH_MODE=token where it needs a token ({error})"
            ) from None
    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        raise UnreachableError(
            "Ray Serve does not run on this cluster: start an application with serve deploy FILE or serve run"
        ) from None
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise UnreachableError(f"the Ray cluster does not answer: {error}") from None


def _ask(method: Any, *arguments: object) -> Any:
    """Call a method of the controller.

    Raises:
        UnreachableError: it does not answer.
    """
    import ray  # noqa: PLC0415

    try:
        return ray.get(method.remote(*arguments), timeout=_FIRST_S)
    except (ray.exceptions.RayError, ConnectionError, TimeoutError) as error:
        raise UnreachableError(f"the controller of Ray Serve does not answer: {error}") from None


def _ingress(controller: Any, application: str) -> str:
    """The deployment that receives an application's requests.

    Raises:
        NotFoundError: there is no such application.
    """
    deployment = _ask(controller.get_ingress_deployment_name, application)
    if deployment is None:
        known = sorted({other.app_name for other in _ask(controller.list_deployment_ids)})
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise NotFoundError(f"Ray Serve has no application {application!r}: {has}")
    return str(deployment)


def _check_deployment(controller: Any, identity: Any) -> None:
    known = [other for other in _ask(controller.list_deployment_ids) if other.app_name == identity.app_name]
    if identity not in known:
        names = ", ".join(sorted(other.name for other in known)) or "none"
        raise NotFoundError(
            f"the application {identity.app_name!r} of Ray Serve has no deployment {identity.name!r}: it has {names}"
        )
