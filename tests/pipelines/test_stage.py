"""Which functions can be stages: what cannot work is refused when the file is read, in one line."""

from functools import cache, partial, wraps

import pytest

from tailcut import Pipeline, stage
from tailcut.errors import UsageError


def made(function, *inputs):
    return stage(inputs=dict.fromkeys(inputs or ("x",), "FP32"), outputs={"y": "FP32"})(function)


def same(x):
    return x


async def coroutine(x):
    return x


async def asynchronous_generator(x):
    yield x


def generator(x):
    yield x


class Scale:
    def __call__(self, x):
        return x


class Asynchronous:
    async def __call__(self, x):
        return x


class Yielding:
    def __call__(self, x):
        yield x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (coroutine, "stage 'coroutine': the function is async"),
        (partial(coroutine), "stage 'partial': the function is async"),
        (asynchronous_generator, "the function is async"),
        (Asynchronous(), "stage 'Asynchronous': the function is async"),
        (Asynchronous().__call__, "the function is async"),
        (generator, "stage 'generator': the function is a generator"),
        (Yielding(), "the function is a generator"),
        (Scale, "stage 'Scale': Scale is a class"),
    ],
)
def test_what_returns_no_arrays_is_refused(function, message):
    """Each call would fail."""
    with pytest.raises(UsageError, match=message) as caught:
        made(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [Scale(), Scale().__call__, partial(lambda a, x: x, 1), abs])
def test_what_can_be_called_is_a_stage(function):
    """Instances, methods and functions in C, too."""
    assert made(function)(2) == 2


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b[31m", "\ud800"])
def test_a_name_is_printed_and_handed_to_its_process(name):
    """Which takes no NUL, and no terminal and no log takes the others."""
    with pytest.raises(UsageError, match="a name must not have control characters") as caught:
        stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, name=name)(abs)
    assert str(caught.value).isprintable()
    assert stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, name="sch\u00f6n [a|b]")(abs).name == "sch\u00f6n [a|b]"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cpus": 3}, "stage 'same': cpus must be a list of numbers of CPUs, not 3"),
        ({"cpus": None}, "stage 'same': cpus must be a list of numbers of CPUs, not None"),
        ({"cpus": "01"}, "stage 'same': cpus must be a list of numbers of CPUs, not ['0', '1']"),
        ({"fill": 0}, "stage 'same': fill must be a dict of a value for each output, not 0"),
        ({"fill": [0]}, "stage 'same': fill must be a dict of a value for each output, not [0]"),
        ({"threads": 4}, "stage 'same': threads is 4: write threads=True, workers=4"),
        ({"threads": "yes"}, "stage 'same': threads is 'yes', must be True or False"),
        ({"threads": 0}, "stage 'same': threads is 0, must be True or False"),
        ({"threads": None}, "stage 'same': threads is None, must be True or False"),
    ],
)
def test_a_setting_of_another_type_is_named(setting, message):
    """With its stage."""
    with pytest.raises(UsageError) as caught:
        stage(inputs={"x": "FP32"}, outputs={"y": "FP32[-1]"}, **setting)(same)
    assert str(caught.value) == message


def test_cpus_may_be_of_any_kind_of_sequence():
    """One that can be read only once, too."""
    assert stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, cpus=(cpu for cpu in (1, 0)))(same).cpus == (1, 0)


def test_a_bare_decorator_says_what_to_write():
    """And which function it is on."""
    with pytest.raises(UsageError, match=r"^stage 'same': write @stage\(inputs=\.\.\., outputs=\.\.\.\)"):
        stage(same)


@pytest.mark.parametrize("kind", [list, tuple, iter, partial(filter, None)])
def test_steps_may_be_of_any_kind_of_sequence(kind):
    """A list that is changed afterwards changes no pipeline."""
    step = made(same)
    given = kind([step, "m.onnx"])
    pipeline = Pipeline("p", given)
    assert pipeline.steps == (step, "m.onnx")


@pytest.mark.parametrize("steps", [[], iter([]), filter(None, [None]), "m.onnx", None, 3, made(abs)])
def test_a_pipeline_has_steps(steps):
    """In a list."""
    with pytest.raises(UsageError, match="pipeline 'p': the steps must be a list of stages and models"):
        Pipeline("p", steps)


def test_inputs_are_given_by_name_or_in_order():
    """By name where all names are the function's, and in order where none contradicts it."""
    assert made(lambda b, a: a, "a", "b").by_name
    assert made(lambda b, c=1, a=0: a, "a", "b").by_name
    assert not made(lambda first, second: first, "a", "b").by_name
    assert not made(lambda a, second: a, "a", "b").by_name


def in_order(function):
    @wraps(function)
    def call(*arrays):
        return function(*arrays)

    return call


def by_name(function):
    @wraps(function)
    def call(**arrays):
        return function(**arrays)

    return call


def passing_on(function):
    @wraps(function)
    def call(*arrays, **named):
        return function(*arrays, **named)

    return call


def renamed(function):
    @wraps(function)
    def call(first, second):
        return function(first, second)

    return call


def with_more(function):
    @wraps(function)
    def call(b, a):
        return function(b, a, 2)

    return call


def unnamed(function):
    return lambda *arrays, **named: function(*arrays, **named)  # noqa: PLW0108  it says nothing of the function


class Decorated:
    @passing_on
    def __call__(self, b, a):
        return a - b


@pytest.mark.parametrize(
    "function",
    [
        in_order(lambda a, b: a - b),
        in_order(lambda first, second: first - second),
        in_order(passing_on(lambda a, b: a - b)),
        by_name(lambda b, a: a - b),
        passing_on(lambda b, a: a - b),
        passing_on(in_order(lambda a, b: a - b)),
        passing_on(lambda first, second: first - second),
        passing_on(with_more(lambda b, a, times: (a - b) * times / 2)),
        partial(passing_on(lambda b, a, times: (a - b) * times), times=1),
        renamed(lambda a, b: a - b),
        cache(lambda b, a: a - b),
        unnamed(lambda first, second: first - second),
        unnamed(in_order(lambda a, b: a - b)),
        lambda **named: named["a"] - named["b"],
        lambda a, *others, **named: a - (others[0] if others else named["b"]),
        Decorated(),
    ],
)
def test_a_decorated_function_gets_its_inputs(function):
    """As its decorators take them, too."""
    step = made(function, "a", "b")
    assert (step(a=3, b=1) if step.by_name else step(3, 1)) == 2


@pytest.mark.parametrize("function", [in_order(lambda b, a: a - b), in_order(lambda a: a), by_name(lambda c, d: c)])
def test_a_decorated_function_that_would_get_other_inputs_is_refused(function):
    """When the file is read, not by each request."""
    with pytest.raises(UsageError, match="but the inputs are a, b: "):
        made(function, "a", "b")


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        (lambda mask, ids: ids, ("ids", "attention"), r"takes \(mask, ids\), but the inputs are ids, attention"),
        (lambda b, a, /: a, ("a", "b"), "'b' would get 'a'"),
        (lambda x, mask=None: x, ("mask",), "'mask' would get nothing"),
        (lambda x, *, mask=None: x, ("mask",), "'mask' would get nothing"),
    ],
)
def test_a_parameter_that_is_called_as_another_input_is_refused(function, inputs, message):
    """It would silently get the wrong array."""
    with pytest.raises(UsageError, match=message) as caught:
        made(function, *inputs)
    assert "\n" not in str(caught.value)


def test_whole_requests_are_a_switch_and_return_arrays():
    """So that there is nothing to fill up."""
    assert stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, whole_requests=True)(same).per_request
    assert not stage(inputs={"x": "FP32"}, outputs={"y": "FP32"})(same).whole_requests
    with pytest.raises(UsageError, match="stage 'same': whole_requests is 1, must be True or False"):
        stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, whole_requests=1)(same)
    with pytest.raises(UsageError, match=r"stage 'same': with whole_requests, .* leave out fill"):
        stage(inputs={"x": "FP32"}, outputs={"y": "FP32[-1]"}, whole_requests=True, fill={"y": 0})(same)
