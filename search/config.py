"""The sweep's configuration: its fields, where they come from, and one-line errors for bad ones.

Later sources win: the size's profile, the `--config` file, the command line's flags, `--set key=value`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from search.credentials import without_credentials
from search.errors import InputError
from search.points import check_grid
from search.sizes import load_profile
from search.space import SearchSpace, parse_dimension
from search.units import parse_duration, parse_memory
from search.yaml_io import parse_yaml, read_yaml_mapping
from trainables.settings import Architecture, DataSettings, ExecutionSettings, Settings, TrialConfig

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
DEFAULT_SIZE = "smollm2-135m"
MemoryBytes = Annotated[int, BeforeValidator(parse_memory)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]


class BaselineSettings(Settings):
    """The full fine-tuning trial that LoRA is measured against."""

    enabled: bool = True
    learning_rate: float = Field(1e-4, gt=0, le=1)
    batch_size: int = Field(8, ge=1)


class StagnationSettings(Settings):
    """Stop sampling once the last ``trials`` raised the hypervolume by no more than ``growth`` of it (None: never)."""

    trials: int | None = Field(None, ge=1)
    growth: float = Field(0.01, ge=0, lt=1)


class SweepConfig(Settings):
    """A resolved sweep: what `sweep.yaml` holds, enough to run it again.

    ``max_examples`` is the full resource in training examples; ``rung_count`` rungs lie below and at it, each
    ``reduction_factor`` times the one before. ``memory_budget`` is in bytes, ``time_budget`` in seconds
    (both also read text such as 24GiB and 30m). ``concurrent`` None lets the machine decide. ``confirm`` is the number of
    new seeds with which the front's members are trained again, ``warm_start`` an earlier run folder or a preset.
    ``rung_timeout`` is the time in seconds that a trial may take from one rung to the next before it counts as hung
    (None: from the time of its peers, see `search.rung_clock`). ``tracking_outage`` says what happens when the server of
    ``tracking_uri`` does not answer at the start: stop, or go on and write everything later.
    """

    name: str = Field(pattern=NAME_PATTERN)
    size: str
    base_model: str
    base_model_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    trials: int = Field(16, ge=1, le=100_000)
    max_examples: int = Field(144, ge=1)
    reduction_factor: int = Field(3, ge=2)
    rung_count: int = Field(3, ge=1, le=10)
    seed: int = Field(0, ge=0, lt=2**31)
    sampler: Literal["hypervolume", "tpe", "gp", "nsga2", "random", "grid"] = "hypervolume"
    scheduler: Literal["pareto-asha", "asha", "fifo"] = "pareto-asha"
    memory_budget: MemoryBytes | None = None
    time_budget: Seconds | None = None
    rung_timeout: Seconds | None = None
    concurrent: int | None = Field(None, ge=1)
    address: str | None = None
    tracking_uri: str | None = None
    tracking_outage: Literal["stop", "later"] = "stop"
    data: DataSettings = DataSettings()
    execution: ExecutionSettings = ExecutionSettings()
    baseline: BaselineSettings = BaselineSettings()
    stagnation: StagnationSettings = StagnationSettings()
    confirm: int = Field(0, ge=0, le=100)
    warm_start: str | None = None
    space: dict[str, Any]
    recommended: dict[str, Any] = Field(default_factory=dict)
    target_sets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    architecture: Architecture

    @model_validator(mode="after")
    def _check_resource_and_space(self) -> Self:
        if self.max_examples < self.reduction_factor ** (self.rung_count - 1):
            raise ValueError(
                f"max_examples {self.max_examples} is too few for {self.rung_count} rungs with reduction "
                f"factor {self.reduction_factor}: at least {self.reduction_factor ** (self.rung_count - 1)}"
            )
        space = SearchSpace(self.space)
        if self.sampler == "grid":
            check_grid(space)
        init = space.dimensions.get("init")
        if self.execution.quantize and init is not None and init.contains("pissa"):
            raise ValueError(
                "init=pissa changes the base model's weights, which quantize=true holds in 4 or 8 bits"
            )
        dora = space.dimensions.get("use_dora")
        if self.execution.base_precision == "int8" and dora is not None and dora.contains(True):
            raise ValueError(
                "use_dora=true on a base in 8 bits: PEFT's DoRA loses the weights' scales; use quantize_type=nf4"
            )
        for name, value in self.recommended.items():
            if parse_dimension(name, value, "recommended").size() != 1:
                raise ValueError(f"recommended.{name}: is one value, not {value!r}")
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of examples at which a trial reports, ascending; the last is the full resource."""
        exponents = range(self.rung_count - 1, -1, -1)
        return tuple(self.max_examples // self.reduction_factor**exponent for exponent in exponents)

    @property
    def search_space(self) -> SearchSpace:
        """The space as objects."""
        return SearchSpace(self.space)

    def baseline_config(self) -> TrialConfig:
        """The baseline's learning rate and batch size in the form of a trial config."""
        return TrialConfig(learning_rate=self.baseline.learning_rate, batch_size=self.baseline.batch_size)

    def to_yaml_dict(self) -> dict[str, Any]:
        """What `sweep.yaml` holds: every field, resolved, credentials of the tracking address removed."""
        content = self.model_dump(mode="json")
        content["space"] = self.search_space.to_yaml()
        if self.tracking_uri:
            content["tracking_uri"] = without_credentials(self.tracking_uri)
        return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``over``, mapping by mapping; a search dimension is replaced whole.

    >>> merge({"space": {"rank": {"low": 2, "high": 8}}}, {"space": {"rank": {"low": 4, "high": 4}}})
    {'space': {'rank': {'low': 4, 'high': 4}}}
    """
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    given = {"alpha", "alpha_ratio"} & set(_mapping(over.get("space")))
    if len(given) == 1:  # two ways to say one thing: the later one stands
        dropped = "alpha" if given == {"alpha_ratio"} else "alpha_ratio"
        merged["space"] = {name: value for name, value in merged["space"].items() if name != dropped}
    return merged


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """The nested mapping of `--set key.sub=value` texts; values are YAML.

    Raises:
        InputError: no ``=``, an empty key, or a value that is not YAML.

    >>> parse_overrides(["space.rank=[4, 8]", "trials=2"])
    {'space': {'rank': [4, 8]}, 'trials': 2}
    """
    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > 2:
            raise InputError(f"--set {text!r}: expected key=value or section.key=value, such as trials=8")
        parsed = parse_yaml(value, f"--set {text!r}")
        result = merge(result, {parts[0]: {parts[1]: parsed}} if len(parts) == 2 else {parts[0]: parsed})
    return result


def explain(error: ValidationError, model: type[Settings] = SweepConfig) -> str:
    """The first problem of a validation error as one line for people."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for part in first["loc"][:-1]:
            owner = owner.model_fields[part].annotation
        return f"unknown setting {where!r}; there are: {', '.join(owner.model_fields)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error", "missing") else f", not {first['input']!r}"
    return f"{where + ': ' if where else ''}{message}{given}{more}"


def resolve_config(
    size: str | None,
    *,
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> SweepConfig:
    """The configuration of a sweep from all its sources.

    ``config_file`` may also be the `sweep.yaml` of a run or the `preset.yaml` of an exported preset (whose
    ``sweep`` section is taken).

    Raises:
        InputError: anything in any source that is unknown, malformed or out of range.
    """
    from_file = read_yaml_mapping(config_file) if config_file else {}
    if isinstance(from_file.get("sweep"), dict):
        from_file = from_file["sweep"]
    from_set = parse_overrides(overrides)
    chosen = size or from_set.get("size") or from_file.get("size") or DEFAULT_SIZE
    merged = load_profile(str(chosen)).sweep_defaults()
    if from_file.get("size", chosen) != chosen and {"base_model", "architecture"} & set(from_file):
        raise InputError(f"{config_file}: describes a model of size {from_file['size']}, not {chosen}")
    for source in (from_file, {k: v for k, v in (flags or {}).items() if v is not None}, from_set):
        base_model = merged["base_model"]
        merged = merge(merged, source)
        if merged["base_model"] != base_model and "base_model_sha256" not in source:
            merged.pop("base_model_sha256", None)  # another file has another checksum
    merged["size"] = chosen
    merged.setdefault("name", str(chosen))
    try:
        return SweepConfig.model_validate(merged)
    except ValidationError as error:
        raise InputError(explain(error)) from error
