"""Who is served next: by priority, then by deadline, then by arrival."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.batching.queue import DEFAULT_PRIORITY, PriorityQueue


@dataclass(eq=False)
class Item:
    """What the queue reads of a request."""

    priority: int = 0
    deadline_ns: int = 0
    count: int = 1
    key: object = None
    arrived: int = 0
    requests: int = 1

    def split(self, requests: int) -> "Item":
        self.requests -= requests
        self.count -= requests
        return Item(self.priority, self.deadline_ns, requests, self.key, self.arrived, requests)

    @property
    def rank(self) -> tuple[int, float, int]:
        return self.priority or DEFAULT_PRIORITY, self.deadline_ns or float("inf"), self.arrived


def queue_of(*items: Item) -> PriorityQueue[Item]:
    queue: PriorityQueue[Item] = PriorityQueue()
    for item in items:
        queue.append(item)
    return queue


def test_equals_are_served_in_order_of_arrival() -> None:
    """Without deadlines and priorities: first come, first served."""
    items = [Item() for _ in range(5)]
    assert queue_of(*items).take(5) == items


def test_smaller_priorities_go_first_and_larger_ones_last() -> None:
    """1 overtakes requests without a priority; 101 gives way to all."""
    late, plain, urgent = Item(priority=101), Item(), Item(priority=1)
    assert queue_of(late, plain, urgent).take(3) == [urgent, plain, late]


def test_the_default_may_be_named() -> None:
    """0 and the default's own number share a deque."""
    items = [Item(priority=DEFAULT_PRIORITY), Item(), Item(priority=DEFAULT_PRIORITY)]
    assert queue_of(*items).take(3) == items


def test_earlier_deadlines_go_first_inside_a_priority() -> None:
    """No deadline is the latest of all; a priority outranks a deadline."""
    without, far, near, urgent = Item(), Item(deadline_ns=900), Item(deadline_ns=100), Item(priority=1)
    assert queue_of(without, far, near, urgent).take(4) == [urgent, near, far, without]


def test_a_batch_is_filled_across_priorities() -> None:
    """What is urgent does not travel alone while there is room."""
    urgent, plain = Item(priority=1), Item()
    queue = queue_of(plain, urgent)
    assert queue.take(2) == [urgent, plain]
    assert queue.rows == 0


def test_only_equal_keys_are_taken_together() -> None:
    """The head says which; the others keep their places."""
    items = [Item(key="a"), Item(key="b"), Item(key="a"), Item(key="b")]
    queue = queue_of(*items)
    assert queue.take(8) == [items[0], items[2]]
    assert queue.take(8) == [items[1], items[3]]


def test_a_request_of_several_rows_is_taken_whole_or_not() -> None:
    """One that does not fit any more waits, and a smaller one behind it may go."""
    items = [Item(count=2), Item(count=3), Item(count=1)]
    queue = queue_of(*items)
    assert queue.take(4) == [items[0], items[2]]
    assert queue.rows == 3
    assert queue.take(1) == [items[1]]


def test_late_ones_are_found_behind_others_that_have_time() -> None:
    """An urgent queue does not hide that a request behind it has expired."""
    expired, urgent, fresh = Item(deadline_ns=50), Item(priority=1, deadline_ns=900), Item(deadline_ns=800)
    queue = queue_of(fresh, expired, urgent)
    assert queue.take_late(51) == [expired]
    assert queue.take(9) == [urgent, fresh]


def test_what_leaves_is_found_wherever_it_stands() -> None:
    """And only once."""
    items = [Item(), Item(priority=7), Item(deadline_ns=5)]
    queue = queue_of(*items)
    assert [queue.remove(item) for item in (items[1], items[1], items[2])] == [True, False, True]
    assert queue.rows == 1
    assert queue.clear() == [items[0]]
    assert queue.head() is None


def test_a_newcomer_learns_what_is_before_it() -> None:
    """Rows of smaller priorities, and of its own with an earlier deadline or an earlier arrival."""
    queue = queue_of(
        Item(count=4), Item(count=2, deadline_ns=100), Item(priority=1, count=1), Item(priority=500, count=8)
    )
    assert queue.rows_before(1, 0) == 1
    assert queue.rows_before(0, 50) == 1
    assert queue.rows_before(0, 100) == 3
    assert queue.rows_before(0, 0) == 7
    assert queue.rows_before(1000, 0) == 15


ITEMS = st.builds(Item, st.integers(0, 3), st.integers(0, 4), st.integers(1, 3), st.sampled_from("ab"))


@settings(max_examples=runs(100), deadline=None)
@given(st.lists(st.one_of(ITEMS, st.integers(1, 6)), max_size=60))
def test_any_order_of_calls_serves_by_rank_and_loses_nobody(steps: list[Item | int]) -> None:
    """Against a plain sorted list: an item is put in, a number takes so many rows."""
    queue: PriorityQueue[Item] = PriorityQueue()
    model: list[Item] = []
    for number, step in enumerate(steps):
        if isinstance(step, Item):
            step.arrived = number
            queue.append(step)
            model = sorted([*model, step], key=lambda item: item.rank)
            continue
        taken = queue.take(step)
        expected: list[Item] = []
        for item in model:
            room = step - sum(item.count for item in expected)
            if not expected or (item.key == expected[0].key and item.count <= room):
                expected.append(item)
        assert taken == expected
        model = [item for item in model if item not in taken]
        assert queue.rows == sum(item.count for item in model)
    assert queue.clear() == model


def test_an_item_of_several_requests_is_split_where_a_batch_ends() -> None:
    """What fits goes, from its front, and the rest is the next to go; one request of many rows stays whole."""
    several, whole = Item(count=5, requests=5), Item(count=3)
    queue = queue_of(several, whole)
    (first,) = queue.take(2)
    assert (first.requests, several.requests, queue.rows) == (2, 3, 6)
    assert queue.take(4) == [several]
    assert queue.take(1) == [whole]
    assert queue.rows == 0


def test_a_split_keeps_the_order_of_those_who_were_passed_over() -> None:
    """Others of another key wait on in front of what was left."""
    first, other, several = Item(), Item(key="other"), Item(count=4, requests=4)
    queue = queue_of(first, other, several)
    taken = queue.take(3)
    assert (taken[0], taken[1].requests, len(taken)) == (first, 2, 2)
    assert list(queue.items()) == [other, several]
