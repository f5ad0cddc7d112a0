"""Which sizes and values a model's inputs probably take, judging by names, dtypes and ranks; most likely first.

No engine is used here: `samples.py` tries the guesses on an engine.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tailcut.engines.filling import ROWS, SampleInput
from tailcut.engines.hints import InputHints
from tailcut.spec import DType, ModelSpec, TensorSpec

_FLOATS = {DType.FP16, DType.BF16, DType.FP32, DType.FP64}
_Axes = Mapping[tuple[str, int], str | None]

# Sizes of a free dimension, in the order in which they are tried. The first ones are what models of the kind are
# commonly exported or trained with; the small ones at the end cost little where a model takes anything.
_IMAGES = (224, (48, 320), 320, 64, 416, 512, 640, 256, 128, 96, (32, 320), 32, 112, 160, 384, 299, 48, 28, 8, 1)
_PAIRS = tuple(size if isinstance(size, tuple) else (size, size) for size in _IMAGES)  # squares, and lines of text
_LADDERS: Mapping[str, tuple[int, ...]] = {
    "height": tuple(height for height, _ in _PAIRS),
    "width": tuple(width for _, width in _PAIRS),
    "channels": (3, 1, 4),
    "clip": (16, 8, 32, 4, 1),
    "chunk": (512, 1536, 1024, 576, 256, 160, 1280, 16_000),  # of a stream: the model has a state
    "audio": (16_000, 512, 1536, 1280, 1760, 400, 160, 48_000, 80_000, 480_000),
    "mel": (96, 76, 100, 128, 64, 200, 300, 1000, 3000, 16, 32),
    "tokens": (16, 8, 32, 64, 128, 77, 256, 512, 4, 2, 1),
    "past": (0, 16, 8, 1),
    "state": (ROWS, 0, 1),
    "any": (16, 8, 32, 64, 96, 76, 128, 224, 512, 1536, 320, 416, 640, 1280, 16_000, 3, 4, 2, 1),
}
_TOGETHER = (("height", "width"), *((kind,) for kind in _LADDERS if kind not in {"height", "width"}))
_BATCH_SIZES = (1, 16, 2, 3, 32, 512, 16_000)  # of the first axis: one row, and more where a model refuses one
_TIME_SIZES = (16, 1, 32, 2, 512, 16_000)  # of a first axis whose name is that of a sequence
_SAMPLE_RATE_HZ = 16_000

_AUDIO = re.compile(r"audio|wav|pcm|speech|signal|sound|samples")
_STATE = re.compile(r"state|cache|hidden|past|memory|^[hc]n?0?$|_[hc]n?$")
_PAST = re.compile(r"past|cache")
_MASK = re.compile(r"mask")
_RATE = re.compile(r"^sr$|sampl\w*_?rate")
_LENGTH = re.compile(r"len(gth)?s?$")
_POSITION = re.compile(r"position")
_TIME = re.compile(r"seq|time|frame|length|token|point|node|edge|steps|^t$")
_MEL_BANDS = {40, 64, 80, 96, 128}


@dataclass(frozen=True, slots=True)
class Guess:
    """A kind of request that a model may accept.

    Args:
        rows: the size of the free first axis.
        inputs: how each is filled, by name.
        certain: it is known which values each input takes.
    """

    rows: int
    inputs: Mapping[str, SampleInput]
    certain: bool


def guesses(spec: ModelSpec, hints: InputHints) -> Iterator[Guess]:
    """Yield guesses: all sizes with the likeliest number of rows, then with others.

    If it is unknown which values an input takes, cautious guesses follow: integers are zero, and lengths are full.
    """
    axes = _free_axes(spec, hints)
    kinds = {kind for kind in axes.values() if kind is not None}
    cautious = any(_is_unknown(tensor, hints) for tensor in spec.inputs)
    for rows in _row_counts(spec, hints):
        for sizes in _assignments(kinds):
            shapes = {t.name: _shape(t, axes, sizes, hints) for t in spec.inputs}
            yield Guess(rows, {t.name: _sample(t, shapes, hints) for t in spec.inputs}, not cautious)
            if cautious:
                yield Guess(rows, {t.name: _sample(t, shapes, hints, cautious=True) for t in spec.inputs}, True)


def _assignments(kinds: set[str]) -> Iterator[dict[str, int]]:
    """Yield a size for each kind of dimension; combinations of sizes early in their ladders come first."""
    groups = [group for group in _TOGETHER if kinds.intersection(group)]
    depth = {3: 8}.get(len(groups), 4 if len(groups) > 3 else 99)
    ladders = [range(min(depth, len(_LADDERS[group[0]]))) for group in groups]
    for places in sorted(itertools.product(*ladders), key=lambda places: (sum(places), places)):
        chosen = zip(groups, places, strict=True)
        yield {kind: _LADDERS[kind][index] for group, index in chosen for kind in group}


def _row_counts(spec: ModelSpec, hints: InputHints) -> tuple[int, ...]:
    leads = [_dim_name(hints, t.name, 0) or "" for t in spec.inputs if t.shape[:1] == (None,)]
    if not leads:
        return (1,)
    timed = all(_TIME.search(name.lower()) and "batch" not in name.lower() for name in leads)
    return _TIME_SIZES if timed else _BATCH_SIZES


# Sizes.


def _free_axes(spec: ModelSpec, hints: InputHints) -> _Axes:
    """The kind of each free dimension, by (input, axis): a key of the ladders, or None for the number of rows."""
    streams = any(_RATE.search(t.name.lower()) or _STATE.search(t.name.lower()) for t in spec.inputs)
    # Dimensions of one name have one size; that of a first axis is the number of rows wherever it appears.
    by_name: dict[str, str | None] = {
        name: None for t in spec.inputs if t.shape[:1] == (None,) and (name := _dim_name(hints, t.name, 0)) is not None
    }
    axes: dict[tuple[str, int], str | None] = {}
    for tensor in spec.inputs:
        for axis, dim in enumerate(tensor.shape):
            if dim is not None or (tensor.name, axis) in hints.sizes:
                continue
            name = _dim_name(hints, tensor.name, axis)
            kind = None if axis == 0 else _kind(tensor, axis, name, streams=streams)
            axes[tensor.name, axis] = kind if name is None else by_name.setdefault(name, kind)
    return axes


def _kind(tensor: TensorSpec, axis: int, dim_name: str | None, *, streams: bool) -> str:
    """The probable kind of a free dimension after the first."""
    name, rank = tensor.name.lower(), len(tensor.shape)
    if _PAST.search((dim_name or "").lower()) or (dim_name is None and rank > 3 and _PAST.search(name)):
        return "past"
    if _STATE.search(name) and rank > 1:
        return "state"
    if tensor.dtype not in _FLOATS | {DType.UINT8}:
        return "tokens"
    return _image_kind(tensor, axis) if rank in {4, 5} else _sequence_kind(tensor, axis, dim_name, streams=streams)


def _image_kind(tensor: TensorSpec, axis: int) -> str:
    """Channels are last if the last size is 1, 3 or 4, and otherwise follow the batch; frames precede the height."""
    rank, last = len(tensor.shape), tensor.shape[-1] in {1, 3, 4}
    if axis == (rank - 1 if last else 1):
        return "channels"
    if rank == 5 and axis == (1 if last else 2):
        return "clip"
    return "width" if axis == rank - 1 - last else "height"


def _sequence_kind(tensor: TensorSpec, axis: int, dim_name: str | None, *, streams: bool) -> str:
    rank = len(tensor.shape)
    if streams and rank == 2:
        return "chunk"
    if rank == 3 and _MEL_BANDS & set(tensor.shape[1:]):
        return "mel"
    heard = _AUDIO.search(f"{tensor.name} {dim_name or ''}".lower())
    return "audio" if heard and rank <= 3 and axis == rank - 1 else "any"


def _shape(tensor: TensorSpec, axes: _Axes, sizes: Mapping[str, int], hints: InputHints) -> tuple[int, ...]:
    return tuple(
        dim if dim is not None else _size((tensor.name, axis), axes, sizes, hints)
        for axis, dim in enumerate(tensor.shape)
    )


def _size(dimension: tuple[str, int], axes: _Axes, sizes: Mapping[str, int], hints: InputHints) -> int:
    """The size of a free dimension, ROWS where it is the number of rows."""
    if dimension in hints.sizes:
        return hints.sizes[dimension]
    total = _sum_of_names(_dim_name(hints, *dimension), axes, sizes, hints)
    kind = axes[dimension]
    return total if total is not None else ROWS if kind is None else sizes[kind]


def _sum_of_names(name: str | None, axes: _Axes, sizes: Mapping[str, int], hints: InputHints) -> int | None:
    """The size of a dimension that is named as a sum of others: `past_sequence_length + sequence_length`."""
    parts = [part.strip() for part in (name or "").split("+")]
    by_name = {_dim_name(hints, *dimension): kind for dimension, kind in axes.items()}
    terms = [int(part) if part.isdecimal() else sizes.get(by_name.get(part) or "", ROWS) for part in parts]
    return sum(terms) if len(parts) > 1 and ROWS not in terms else None


def _dim_name(hints: InputHints, tensor: str, axis: int) -> str | None:
    names = hints.names.get(tensor, ())
    return names[axis] if axis < len(names) else None


# Values.


def _sample(
    tensor: TensorSpec, shapes: Mapping[str, Sequence[int]], hints: InputHints, *, cautious: bool = False
) -> SampleInput:
    """How an input is filled; `cautious`: with zeros or full lengths, where nothing says which integers are allowed."""
    name, shape = tensor.name.lower(), tuple(shapes[tensor.name])
    if tensor.dtype is DType.BYTES:
        return SampleInput(shape=shape, values="numerals" if cautious else "text")
    if _RATE.search(name) and len(shape) <= 1:
        return SampleInput(shape=shape, values="constant", low=_SAMPLE_RATE_HZ)
    if _MASK.search(name):
        return SampleInput(shape=shape, values="mask")
    if tensor.dtype in _FLOATS:
        return SampleInput(shape=shape, values="constant" if _STATE.search(name) else "normal")
    return _integers(tensor, shape, shapes, hints.below.get(tensor.name), cautious=cautious)


def _integers(
    tensor: TensorSpec,
    shape: tuple[int, ...],
    shapes: Mapping[str, Sequence[int]],
    below: int | None,
    *,
    cautious: bool,
) -> SampleInput:
    name = tensor.name.lower()
    if _POSITION.search(name):
        return SampleInput(shape=shape, values="positions", high=below or 1 << 20)
    if below is not None:
        return SampleInput(shape=shape, values="integers", high=below)
    if tensor.dtype is DType.UINT8 and len(shape) > 2:
        return SampleInput(shape=shape, values="integers", high=256)  # pixels
    if _LENGTH.search(name) and len(shape) <= 1:
        # Lengths differ, as in a mask: an engine that ignores them is wrong only where they are not full.
        longest = _longest(shapes)
        return SampleInput(shape=shape, values="integers", low=longest if cautious else 1, high=longest + 1)
    if tensor.dtype is DType.BOOL and ROWS not in shape:
        return SampleInput(shape=shape, values="constant")  # a switch, as `use_cache_branch`
    return SampleInput(shape=shape, values="integers", high=1 if cautious else 2)


def _longest(shapes: Mapping[str, Sequence[int]]) -> int:
    """The largest size after the first axis: probably that of the axis that an input of lengths refers to."""
    return max((size for shape in shapes.values() for size in shape[1:]), default=1)


def _is_unknown(tensor: TensorSpec, hints: InputHints) -> bool:
    """Whether it is unknown which values an input takes."""
    if tensor.dtype in _FLOATS | {DType.BOOL}:
        return False
    return tensor.name not in hints.below and not _MASK.search(tensor.name.lower())
