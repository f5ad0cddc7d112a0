"""What `--mix` means, and which mistakes are reported."""

import pytest

from tailcut.errors import UsageError
from tailcut.lab.mix import MixEntry, check_served, data_by_model, parse_mix

KINDS = ("poisson", "constant", "bursty")


def test_models_with_rates_and_arrivals() -> None:
    """Names in their order; a name may hold an equals sign, because rates do not."""
    assert parse_mix("minilm=20, churn=0.5:bursty", KINDS) == [MixEntry("minilm", 20), MixEntry("churn", 0.5, "bursty")]
    assert parse_mix("a=b=3", KINDS) == [MixEntry("a=b", 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minilm", "'minilm' is not a model with its rate: write NAME=RATE"),
        ("", "'' is not a model with its rate"),
        ("a=1,", "'' is not a model with its rate"),
        ("=5", "'=5' is not a model with its rate"),
        ("a=fast", "'fast' is not the rate of a: write NAME=RATE"),
        ("a=0", "the rate of a must be greater than 0, and it is 0"),
        ("a=-1", "the rate of a must be greater than 0, and it is -1"),
        ("a=nan", "the rate of a must be greater than 0"),
        ("a=inf", "the rate of a must be greater than 0"),
        ("a=1,b=2,a=3", "--mix names a twice"),
        ("a=1:daily", "'daily' is not an arrival process: name one of poisson, constant, bursty"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    """Each says what is wrong and what to write."""
    with pytest.raises(UsageError, match="--mix") as caught:
        parse_mix(text, KINDS)
    assert words in str(caught.value)


def test_models_that_the_server_has_not() -> None:
    """The message has those that it has."""
    check_served([MixEntry("a", 1)], ["a", "b"])
    with pytest.raises(UsageError, match="the server has no model 'c': it has a, b"):
        check_served([MixEntry("c", 1)], ["a", "b"])
    with pytest.raises(UsageError, match="it has none"):
        check_served([MixEntry("c", 1)], [])


def test_a_file_for_each_model() -> None:
    """Models without one get made-up inputs."""
    assert data_by_model(["b=x=y.npz"], ["a", "b"]) == {"b": "x=y.npz"}
    assert data_by_model([], ["a"]) == {}
    with pytest.raises(UsageError, match=r"'x\.npz' is not NAME=FILE with a model of --mix: a, b"):
        data_by_model(["x.npz"], ["a", "b"])
    with pytest.raises(UsageError, match="gives a two files"):
        data_by_model(["a=1", "a=2"], ["a", "b"])
