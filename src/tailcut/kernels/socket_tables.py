"""The tables that the fast path and the compiled passes over its sockets share, by their columns.

Nothing is compiled here. numba caches compiled code until the source file of the function changes: after changing a
number here, touch `sockets.py`, `answers.py`, `heads.py` and `numbers.py`.

Tables are int64, so that their columns can be read and written from both sides:

- `state`, a row for each descriptor: its connection's `GENERATION` (never used twice; 0: none), the number of its
  `PLAN` (-1: none), whether an answer is `PENDING`, when it last sent or was answered (`SEEN`, monotonic ns), and the
  bytes of its last head where that is not the plan's own (`OWN_HEAD`; else 0), which stands in its row of `own_heads`;
  or how many bytes stand there of a message that is not whole yet (`HELD`).
- `plans`: a head's `START` in `heads` and its `HEAD_BYTES`, its `BODY_BYTES`, its `TARGET`, and where in `heads` the
  part of the head that matters stands: `PART`, `PART_BYTES`. Of its body, where in `heads` the bytes before and behind
  the data stand (`BEFORE`, `BEFORE_BYTES`, `BEHIND`, `BEHIND_BYTES`), and the `FORM` of the data: raw `ROWS`, or a list
  of JSON, `LIST32` or `LIST64`. A list has `COUNT` numbers, flat or nested as the `LEVELS` dimensions from `DIMS` on
  say; Content-Length is then no part of what matters, and at most `BODY_MOST`. `TRACE` is that of the plan's own head.
- `fields` and `grammar`, as `heads.py` has them.
- `targets`: the `ADDRESS` of the first row that may be filled (0: bodies are dropped), `ROW_BYTES`, the `ROOM` there,
  how many rows have been `TAKEN`, and how many are `WANTED`. How many of those taken have a trace context that is
  `SAMPLED`, and how many have none (`ROOTS`).
- `members`, for each target: the descriptor, generation, moment of arrival, body's length and trace context of each row
  taken; the last is 1 where it is sampled, -1 where it is not, 0 where there is none that is well-formed.
- `events`, as epoll_wait(2) writes them on x86-64: 12 bytes, mask and descriptor first. On others they are 16 bytes.
"""

HEAD_MOST = 2048  # bytes of a head that is compared field by field
MOST_DIMENSIONS = 8  # of a list of JSON

GENERATION, PLAN, PENDING, SEEN, OWN_HEAD, HELD = range(6)
START, HEAD_BYTES, BODY_BYTES, TARGET, PART, PART_BYTES = range(6)
BEFORE, BEFORE_BYTES, BEHIND, BEHIND_BYTES, FORM, BODY_MOST, COUNT, LEVELS, TRACE, DIMS = range(6, 16)
ADDRESS, ROW_BYTES, ROOM, TAKEN, WANTED, SAMPLED, ROOTS = range(7)
ROWS, LIST32, LIST64 = range(3)
STATES, PLANS, TARGETS, MEMBERS = 6, DIMS + MOST_DIMENSIONS, 7, 5  # columns
