"""Decides what a supervisor does about its worker processes: which to start, when, and when to give up. Pure.

There is no process, clock or signal here: the shell (`supervisor.py`) reports what happened and when, and carries out
the returned actions. A fleet has `size` posts, each for one serving worker; while it is renewed, its successor loads
beside it, so that every post always serves. Posts are renewed one after the other, each after the last old worker has
left: there is at most one process more than posts.

A worker that ends after serving for a while is replaced at once. When several end in a row, each replacement waits
twice as long as the one before, and after `RestartPolicy.limit` such losses the fleet gives up: a service that keeps
failing is better restarted elsewhere than kept half running. The very first worker starts alone, so that an error in
loading a model is reported once, by one worker, whose exit code becomes the fleet's.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from tailcut.errors import IllegalMoveError


class WorkerState(Enum):
    """The state of a post."""

    EMPTY = auto()  # no process; one will start when it is due
    LOADING = auto()
    SERVING = auto()
    RENEWING = auto()  # one worker serves, and its successor loads


class WorkerEvent(Enum):
    """An event at a post."""

    DUE = auto()
    READY = auto()  # the process that loads is ready
    LOADER_LOST = auto()  # the process that loads has ended
    SERVER_LOST = auto()  # the process that serves has ended by itself
    RENEW = auto()


class Do(Enum):
    """The kinds of actions for the shell."""

    NOTHING = auto()
    START = auto()  # a worker, for the action's post
    RETIRE = auto()  # tell the worker to accept no more, answer the requests in progress, and end
    DRAIN = auto()  # tell the worker to report that it is not ready, then as above
    ANNOUNCE = auto()  # all posts serve for the first time
    FAIL = auto()  # log that a worker ended, and that another starts after a pause (`seconds`)
    ABANDON = auto()  # a successor did not load: the old workers go on serving, and the renewal ends
    NOT_BEGUN = auto()  # log that a worker was killed before all posts served, which ends the fleet
    GIVE_UP = auto()  # too many workers ended in a row
    EXIT = auto()  # no worker is left: end with exit code `code`


MOVES: dict[tuple[WorkerState, WorkerEvent], tuple[WorkerState, Do]] = {
    (WorkerState.EMPTY, WorkerEvent.DUE): (WorkerState.LOADING, Do.START),
    (WorkerState.LOADING, WorkerEvent.READY): (WorkerState.SERVING, Do.NOTHING),
    (WorkerState.LOADING, WorkerEvent.LOADER_LOST): (WorkerState.EMPTY, Do.FAIL),
    (WorkerState.SERVING, WorkerEvent.SERVER_LOST): (WorkerState.EMPTY, Do.FAIL),
    (WorkerState.SERVING, WorkerEvent.RENEW): (WorkerState.RENEWING, Do.START),
    (WorkerState.RENEWING, WorkerEvent.READY): (WorkerState.SERVING, Do.RETIRE),
    (WorkerState.RENEWING, WorkerEvent.LOADER_LOST): (WorkerState.SERVING, Do.ABANDON),
    (WorkerState.RENEWING, WorkerEvent.SERVER_LOST): (WorkerState.LOADING, Do.NOTHING),
}


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When workers that end in a row are replaced, and when the fleet gives up."""

    limit: int = 8  # losses in a row after which the fleet gives up
    pause_s: float = 0.25  # before the second replacement; doubled before each further one
    longest_s: float = 10.0
    stable_s: float = 5.0  # a worker that served for this long ends the row

    def pause(self, losses: int) -> float:
        """The seconds before the next start, after this many losses in a row."""
        return 0.0 if losses < 2 else min(self.longest_s, self.pause_s * 2 ** (losses - 2))


@dataclass(frozen=True, slots=True)
class Action:
    """One action for the shell; with `worker` and `post` where it concerns one."""

    do: Do
    worker: int = -1
    post: int = -1
    code: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Post:
    number: int
    state: WorkerState = WorkerState.EMPTY
    due: float | None = None  # EMPTY: when a process is to start; None: not yet known
    serving: int = -1
    loading: int = -1
    since: float = 0.0  # when the serving worker began to serve
    losses: int = 0  # in a row


@dataclass(slots=True)
class Fleet:
    """The state of all posts. The methods take the time in seconds, and return the actions to carry out, in order."""

    size: int
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    _posts: list[_Post] = field(init=False)
    _workers: dict[int, int] = field(init=False, default_factory=dict)  # the post of every running worker
    _next: int = field(init=False, default=0)
    _announced: bool = field(init=False, default=False)
    _stopping: bool = field(init=False, default=False)
    _code: int = field(init=False, default=0)
    _to_renew: deque[int] = field(init=False, default_factory=deque)
    _leaving: int = field(init=False, default=-1)  # the worker that a renewal has retired and that still runs; -1: none

    def __post_init__(self) -> None:
        self._posts = [_Post(number) for number in range(self.size)]

    def begin(self, now: float) -> list[Action]:
        """Start the first worker; the others follow when it is ready."""
        self._posts[0].due = now
        return self.tick(now)

    def due(self) -> float | None:
        """When to call `tick` next."""
        return min((post.due for post in self._posts if post.due is not None), default=None)

    def tick(self, now: float) -> list[Action]:
        """Start the workers that are due."""
        due = [post for post in self._posts if post.due is not None and post.due <= now]
        return [self._move(post, WorkerEvent.DUE, now) for post in due]

    def ready(self, worker: int, now: float) -> list[Action]:
        """Note that a worker has loaded and accepts."""
        if self._stopping or worker not in self._workers:
            return []
        post = self._posts[self._workers[worker]]
        actions = [self._move(post, WorkerEvent.READY, now)]
        if not self._announced:
            for other in self._posts:
                if other.state is WorkerState.EMPTY and other.due is None:
                    other.due = now
            actions += self.tick(now)
            if all(post.state is WorkerState.SERVING for post in self._posts):
                self._announced = True
                actions.append(Action(Do.ANNOUNCE))
        return [*_real(actions), *self._renew_next(now)]

    def lost(self, worker: int, now: float, code: int) -> list[Action]:
        """Note that a worker has ended, as told or by itself; `code` is its exit code, below 0 for a signal."""
        post = self._posts[self._workers.pop(worker)]
        if self._stopping:
            return [] if self._workers else [Action(Do.EXIT, code=self._code)]
        if worker == self._leaving:
            self._leaving = -1
            return self._renew_next(now)
        if worker not in {post.serving, post.loading}:
            return []
        if not self._announced:  # one that exits with a code has said why
            told = [Action(Do.NOT_BEGUN, post=post.number)] if code < 0 else []
            return [*told, *self.stop(now, code=code if code > 0 else 1)]
        event = WorkerEvent.LOADER_LOST if worker == post.loading else WorkerEvent.SERVER_LOST
        actions = _real([self._move(post, event, now)])
        if post.losses >= self.restart_policy.limit:
            return [Action(Do.GIVE_UP, post=post.number), *self.stop(now, code=1)]
        return [*actions, *self.tick(now), *self._renew_next(now)]

    def renew(self, now: float) -> list[Action]:
        """Replace every worker with a new one, one after the other."""
        if self._stopping or not self._announced:
            return []
        self._to_renew = deque(range(self.size))
        return self._renew_next(now)

    def stop(self, now: float, code: int = 0) -> list[Action]:
        """Have all workers drain; EXIT follows the last."""
        if self._stopping:
            return []
        self._stopping, self._code = True, code
        for post in self._posts:
            post.due = None
        if not self._workers:
            return [Action(Do.EXIT, code=code)]
        return [Action(Do.DRAIN, worker) for worker in self._workers if worker != self._leaving]

    def _renew_next(self, now: float) -> list[Action]:
        # A worker that is loading may have read the old files, so it is waited for, and renewed in its turn.
        if self._leaving >= 0 or any(post.state in {WorkerState.RENEWING, WorkerState.LOADING} for post in self._posts):
            return []
        while self._to_renew:
            post = self._posts[self._to_renew.popleft()]
            if post.state is WorkerState.SERVING:  # one that starts later reads the new files
                return [self._move(post, WorkerEvent.RENEW, now)]
        return []

    def _move(self, post: _Post, event: WorkerEvent, now: float) -> Action:
        try:
            state, do = MOVES[post.state, event]
        except KeyError:
            raise IllegalMoveError(f"a post in state {post.state.name} cannot handle the event {event.name}") from None
        action = Action(do, post=post.number)
        post.due = None
        match event:
            case WorkerEvent.DUE | WorkerEvent.RENEW:
                post.loading = self._next
                self._next += 1
                self._workers[post.loading] = post.number
                action = Action(do, post.loading, post.number)
            case WorkerEvent.READY:
                action = Action(do, post.serving, post.number)
                if do is Do.RETIRE:
                    self._leaving = post.serving
                post.serving, post.loading, post.since = post.loading, -1, now
            case WorkerEvent.SERVER_LOST:
                post.losses = 1 if now - post.since >= self.restart_policy.stable_s else post.losses + 1
                post.serving = -1
            case WorkerEvent.LOADER_LOST:
                post.losses += do is Do.FAIL
                post.loading = -1
                if do is Do.ABANDON:
                    self._to_renew.clear()
        post.state = state
        if state is WorkerState.EMPTY:
            pause = self.restart_policy.pause(post.losses)
            post.due = now + pause
            action = Action(do, post=post.number, seconds=pause)
        return action


def _real(actions: list[Action]) -> list[Action]:
    return [action for action in actions if action.do is not Do.NOTHING]
