"""Which replicas an application has, and at which addresses: as Serve's controller tells every router of its own.

The controller answers a long poll when the replicas that take requests have changed: one that has become ready or has
died, and one that is to stop, before it stops. What it tells of a replica contains what the replica published when it
started. A thread follows it; while the controller is away, or this process is part of no cluster, the last answer
stands.
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

PUBLISHED = "tailcut"  # the key of what a replica publishes
_POLL_S = 90.0  # longer than the controller holds an answer back
_LOOK_S = 1.0  # between two looks whether this process is still part of the cluster: a poll of one it left never ends
_AGAIN_S = 0.5
_FIRST_S = 10.0  # for the first answer; there is none before an application has had a replica

Changed = Callable[[Sequence[ServerAddress]], None]


@dataclass(frozen=True, slots=True)
class Name:
    """An application, and one of its deployments; empty: the one that takes its requests."""

    application: str
    deployment: str = ""

    @classmethod
    def parse(cls, url: str) -> "Name":
        """Read `ray://APP` or `ray://APP/DEPLOYMENT`.

        Raises:
            InvalidInputError: it is neither.
        """
        application, _, deployment = url.removeprefix(RAY).partition("/")
        if not application or "/" in deployment or not url.startswith(RAY):
            raise InvalidInputError(
                f"{url!r} is not an application of Ray Serve: write ray://APP or ray://APP/DEPLOYMENT"
            )
        return cls(unquote(application), unquote(deployment))

    def __str__(self) -> str:
        """As a user writes it."""
        return f"{RAY}{self.application}/{self.deployment}" if self.deployment else f"{RAY}{self.application}"


def addresses_of(replicas: Iterable[Any]) -> tuple[ServerAddress, ...]:
    """The addresses of replicas, in an order that does not depend on theirs; of others than Tailcut's there is none.

    Args:
        replicas: as the controller tells of them; `replica_metadata` is what each published.
    """
    metadata = [replica.replica_metadata.get(PUBLISHED) for replica in replicas]
    urls = sorted({entry["url"] for entry in metadata if isinstance(entry, dict) and "url" in entry})
    return tuple(map(ServerAddress.parse, urls))


class ReplicaDirectory:
    """The replicas of an application, as a client's directory."""

    def __init__(self, name: Name) -> None:
        need_ray()
        self._name = name
        self._stopped = threading.Event()

    @classmethod
    def parse(cls, url: str) -> "ReplicaDirectory":
        """The replicas of `ray://APP` or `ray://APP/DEPLOYMENT`.

        Raises:
            InvalidInputError: it is neither.
            UsageError: Ray is not installed.
        """
        return cls(Name.parse(url))

    def follow(self, changed: Changed) -> None:
        """Call `changed` with the replicas that take requests, now and whenever they change, from a thread.

        This process becomes a driver of the Ray cluster, where it is not part of one already.

        Raises:
            NotFoundError: no application or deployment has that name.
            UnreachableError: there is no Ray cluster, or Serve does not run on it, or it does not answer.
        """
        watch = _Watch(self._name, changed, self._stopped)
        if not watch.poll(_FIRST_S):
            changed(())
        threading.Thread(target=watch.run, name=f"tailcut {self._name}", daemon=True).start()

    def close(self) -> None:
        """End the thread, after its next answer."""
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
        """Wait for an answer, and pass it on; whether there was one.

        Raises:
            UnreachableError: the controller is away, or this process has left its cluster.
        """
        import ray  # noqa: PLC0415

        try:
            # No ray.get: when the program ends, Ray ends a process that has a thread in there, with code 1.
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
        """Poll until told to stop; where this process leaves the cluster, go on when it is part of one again."""
        while not self._stopped.is_set():
            with suppress(UnreachableError):
                if _session() == self._session:
                    self.poll(_POLL_S)
                    continue
            self._stopped.wait(_AGAIN_S)
            session = _session()
            if session is not None and not self._stopped.is_set():
                with suppress(TailcutError):  # the controller is started again by Ray, and counts its answers anew
                    self._controller, self._snapshot, self._session = connect(), -1, session

    def _result(self, future: "Future[Any]", end_s: float) -> Any:
        """What a poll is answered.

        Raises:
            TimeoutError: nothing, by this time.
            UnreachableError: this process has left the cluster.
        """
        while True:
            try:
                return future.result(max(0.0, min(_LOOK_S, end_s - time.monotonic())))
            except TimeoutError:
                if _session() != self._session:
                    raise UnreachableError("this process has left the Ray cluster") from None
                if time.monotonic() >= end_s:
                    raise


def _session() -> str | None:
    """Which of its sessions on Ray clusters this process is in; None: in none."""
    import ray  # noqa: PLC0415

    return str(ray.get_runtime_context().get_job_id()) if ray.is_initialized() else None


def connect() -> Any:
    """The controller of Serve on the cluster that this process is part of, or else joins as a driver.

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
    """The deployment that takes an application's requests.

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
