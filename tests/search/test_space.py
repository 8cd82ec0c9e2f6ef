"""The search space: how dimensions are written, what is refused, and that suggested points lie inside."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import InputError
from search.space import DIMENSION_NAMES, Choices, Range, SearchSpace, parse_dimension
from trainables.settings import TrialConfig


def test_the_three_ways_to_write_a_dimension() -> None:
    assert parse_dimension("rank", 8) == Choices("rank", (8,))
    assert parse_dimension("rank", [4, 8, 4]) == Choices("rank", (4, 8))
    assert parse_dimension("rank", {"low": 2, "high": 8, "step": 2}) == Range(
        "rank", 2, 8, step=2, integer=True
    )
    assert parse_dimension("learning_rate", {"low": 1e-4, "high": 1e-3, "log": True}) == Range(
        "learning_rate", 1e-4, 1e-3, log=True
    )


def test_values_take_the_type_of_their_config_field() -> None:
    assert parse_dimension("alpha_ratio", {"low": 1, "high": 4}) == Range("alpha_ratio", 1.0, 4.0)
    assert parse_dimension("dropout", [0, 0.05]) == Choices("dropout", (0.0, 0.05))
    assert isinstance(parse_dimension("dropout", 0).to_yaml(), float)


def test_a_range_without_extent_is_a_fixed_value() -> None:
    assert parse_dimension("rank", {"low": 8, "high": 8}) == Choices("rank", (8,))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("colour", 1, "unknown search dimension 'colour'; there are: alpha, alpha_ratio, batch_size"),
        ("rank", [], "space.rank: an empty list leaves nothing to choose"),
        ("rank", 0, "space.rank: 0 is not allowed: Input should be greater than or equal to 1"),
        ("rank", [8, -4], "space.rank: -4 is not allowed"),
        ("rank", 8.5, "space.rank: 8.5 is not allowed"),
        ("rank", "many", "space.rank: 'many' is not allowed"),
        ("rank", None, "space.rank: None is not allowed"),
        ("rank", [[8]], r"space.rank: \[8\] is not allowed"),
        ("learning_rate", 2.0, "space.learning_rate: 2.0 is not allowed"),
        ("learning_rate", float("nan"), "space.learning_rate: nan is not allowed"),
        ("alpha_ratio", 0, "space.alpha_ratio: 0 is not allowed: Input should be greater than 0"),
        ("alpha_ratio", float("inf"), "space.alpha_ratio: inf is not allowed"),
        ("weight_decay", {"low": 0, "high": math.inf}, "space.weight_decay: inf is not allowed"),
        ("dropout", 1.0, "space.dropout: 1.0 is not allowed"),
        ("targets", 5, "space.targets: 5 is not allowed"),
        ("init", "best", "space.init: 'best' is not allowed"),
        ("rank", {"low": 2}, r"space.rank: a range takes low, high .*, not \['low'\]"),
        ("rank", {"low": 2, "high": 8, "hihg": 9}, "space.rank: a range takes low, high"),
        ("rank", {"low": 2, "high": 8, 3: 9}, "space.rank: a range takes low, high"),
        ("rank", {}, r"space.rank: a range takes low, high .*, not \[\]"),
        ("rank", {"low": 9, "high": 8}, "space.rank: low 9 is above high 8"),
        ("rank", {"low": 0, "high": 8}, "space.rank: 0 is not allowed"),
        ("rank", {"low": 2, "high": 8, "step": 0}, "space.rank: step must be a positive whole number"),
        ("rank", {"low": 2, "high": 8, "step": 0.5}, "space.rank: step must be a positive whole number"),
        ("rank", {"low": 2, "high": 8, "step": True}, "space.rank: step must be"),
        ("rank", {"low": 2, "high": 8, "log": True, "step": 2}, "space.rank: step must be .* not with log"),
        ("rank", {"low": 2, "high": 8, "log": "no"}, "space.rank: log is true or false, not 'no'"),
        (
            "dropout",
            {"low": 0, "high": 0.5, "step": math.inf},
            "space.dropout: step must be a positive number",
        ),
        ("dropout", {"low": 0, "high": 0.5, "step": "x"}, "space.dropout: step must be a positive number"),
        ("dropout", {"low": 0, "high": 0.5, "log": True}, "space.dropout: a log scale needs low above 0"),
        ("targets", {"low": "a", "high": "b"}, "space.targets: takes a list of choices, not a range"),
        ("use_dora", {"low": False, "high": True}, "space.use_dora: takes a list of choices, not a range"),
    ],
)
def test_a_bad_dimension_is_one_line_that_says_what_is_allowed(name: str, raw: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SearchSpace({name: raw})
    assert "\n" not in str(caught.value)


def test_alpha_is_given_in_one_way_only() -> None:
    with pytest.raises(InputError, match="give alpha or alpha_ratio"):
        SearchSpace({"alpha": 16, "alpha_ratio": 2})


def test_fixed_settings_that_exclude_each_other_are_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"^space: init=pissa and use_dora=true cannot be combined"):
        SearchSpace({"init": "pissa", "use_dora": True})
    assert SearchSpace({"init": ["default", "pissa"], "use_dora": True}).size() == 2


def test_a_point_becomes_a_trial_config() -> None:
    space = SearchSpace({"rank": [4, 8], "alpha_ratio": [0.5, 2]})
    assert space.to_config({"rank": 4, "alpha_ratio": 0.5}) == TrialConfig(rank=4, alpha=2.0)
    default_rank = TrialConfig().rank
    assert SearchSpace({}).to_config({"alpha_ratio": 3.0}).alpha == 3.0 * default_rank
    assert SearchSpace({"alpha": [8, 16]}).to_config({"alpha": 8.0, "rank": 4}).alpha == 8.0


def test_restrict_keeps_what_is_searched_and_inside() -> None:
    raw = {"rank": [4, 8], "dropout": 0.05, "learning_rate": {"low": 1e-4, "high": 1e-3}}
    space = SearchSpace(raw)
    assert space.restrict({"rank": 8, "dropout": 0.05, "learning_rate": 5e-4, "targets": "mlp"}) == {
        "rank": 8,
        "learning_rate": 5e-4,
    }
    assert space.restrict({"rank": 16, "learning_rate": 1e-2}) == {}


@pytest.mark.parametrize(
    ("raw", "inside", "outside"),
    [
        ([4, 8], [4, 8, 8.0], [6, "8", None]),
        ({"low": 2, "high": 8}, [2, 3, 8, 5.0], [1, 9, 4.5, True, "4", None]),
        ({"low": 2, "high": 9, "step": 3}, [2, 5, 8], [3, 9]),
    ],
)
def test_contains(raw: Any, inside: list[Any], outside: list[Any]) -> None:
    dimension = parse_dimension("rank", raw)
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)


def test_size_counts_configs() -> None:
    assert SearchSpace({"rank": [4, 8, 16], "targets": ["mlp", "attention"], "dropout": 0}).size() == 6
    assert SearchSpace({"rank": {"low": 1, "high": 10, "step": 3}}).size() == 4
    assert SearchSpace({"dropout": {"low": 0.0, "high": 0.3, "step": 0.1}}).size() == 4
    assert SearchSpace({"learning_rate": {"low": 1e-4, "high": 1e-3}}).size() == math.inf
    assert SearchSpace({}).size() == 1


def test_target_sets_are_those_that_may_come_up() -> None:
    assert SearchSpace({"targets": ["mlp", "attention"]}).target_sets() == ("mlp", "attention")
    assert SearchSpace({}).target_sets() == (TrialConfig().targets,)


def test_descriptions_are_for_people() -> None:
    assert parse_dimension("rank", 8).describe() == "8 (fixed)"
    assert parse_dimension("rank", [4, 8]).describe() == "4, 8"
    dimension = parse_dimension("learning_rate", {"low": 1e-4, "high": 1e-3, "log": True})
    assert dimension.describe() == "0.0001 to 0.001 (log scale)"


RANKS = st.lists(st.integers(1, 64), min_size=1, max_size=4)
INTEGER_RANGES = st.tuples(st.integers(1, 100), st.integers(0, 50), st.integers(1, 7)).map(
    lambda t: {"low": t[0], "high": t[0] + t[1], "step": t[2]}
)
LOG_RANGES = st.tuples(st.floats(1e-6, 1e-3), st.floats(1, 100)).map(
    lambda t: {"low": t[0], "high": t[0] * t[1], "log": True}
)
STEPPED = st.tuples(st.integers(0, 3), st.integers(1, 6)).map(
    lambda t: {"low": t[0] / 10, "high": (t[0] + t[1]) / 10, "step": 0.1}
)
SPACES = st.fixed_dictionaries(
    {},
    optional={
        "rank": RANKS | INTEGER_RANGES,
        "batch_size": INTEGER_RANGES,
        "learning_rate": LOG_RANGES,
        "alpha_ratio": st.floats(0.25, 4) | LOG_RANGES,
        "dropout": st.sampled_from([0, [0, 0.05]]) | STEPPED,
        "targets": st.lists(st.sampled_from(["mlp", "attention", "all-linear"]), min_size=1),
        "use_rslora": st.sampled_from([True, False, [True, False]]),
    },
)


@settings(max_examples=60, deadline=None)
@given(raw=SPACES, seed=st.integers(0, 1000))
def test_every_suggested_point_lies_in_the_space(raw: dict[str, Any], seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = SearchSpace(raw)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    point = space.suggest(trial := study.ask())
    assert set(point) == set(raw)
    assert all(space.dimensions[name].contains(value) for name, value in point.items())
    config = space.to_config(point)
    assert all(getattr(config, name) == value for name, value in point.items() if name != "alpha_ratio")
    # What the study knows are the searched dimensions, and fixing them gives the same point again.
    assert trial.params == space.restrict(point)
    assert space.suggest(optuna.trial.FixedTrial(trial.params)) == point


@given(raw=SPACES)
def test_a_space_written_down_reads_back_the_same(raw: dict[str, Any]) -> None:
    space = SearchSpace(raw)
    assert SearchSpace(space.to_yaml()).dimensions == space.dimensions


def test_every_field_of_a_trial_config_can_be_searched() -> None:
    assert set(TrialConfig.model_fields) | {"alpha_ratio"} == set(DIMENSION_NAMES)
    for name, field in TrialConfig.model_fields.items():
        assert parse_dimension(name, field.default).contains(field.default)
