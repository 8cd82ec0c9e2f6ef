"""`lorafront estimate`: a model with its size's settings and what the command line changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from search.config import explain, parse_overrides
from search.device_memory import device_memory_bytes
from search.errors import InputError
from search.estimate import Predict, estimate
from search.estimate_model import find_model
from search.estimate_result import EstimateResult
from search.fitting_sets import ON_EXPERTS
from search.sizes import Profile
from search.space import DIMENSION_NAMES, SearchSpace
from trainables.model_shape import shape_of
from trainables.modules import are_parameters, resolve_targets, sets_of
from trainables.peak import has_closed_form
from trainables.plugins import check_plugin
from trainables.served import check_served
from trainables.settings import ExecutionSettings, TrialConfig
from trainables.trace import trace_peak


def estimate_size(
    size: str,
    changes: Mapping[str, Any],
    *,
    seq_len: int | None = None,
    gradient_checkpointing: bool | None = None,
    quantize: bool | None = None,
    device_memory: str | None = None,
    supervised_fraction: float = 1.0,
    overrides: Sequence[str] = (),
    predict: Predict = trace_peak,
) -> EstimateResult:
    """The prediction for a model's recommended config with ``changes`` (None keeps the recommendation).

    ``size`` may also be a model folder, its config.json, a GGUF file or a hub model in the cache. ``overrides`` are
    `--set` texts: a trial's settings and ``execution.*``; they win.

    Raises:
        InputError: an unknown model, set, card or setting, or an impossible number.
    """
    model = find_model(size)
    trial, execution_changes = _parse_settings(overrides)
    given = _given(changes) | trial
    paths = [kind.path for kind in shape_of(model.architecture).linears]
    config = _fitting(_config(model.profile, given), given, paths)
    flags = {"gradient_checkpointing": gradient_checkpointing, "quantize": quantize}
    execution = _execution(model.profile, _given(flags) | execution_changes)
    seq_len = model.profile.data.seq_len if seq_len is None else seq_len
    # Other sets are for the grid of what fits; where each would have to be traced, seconds apiece, they are left out.
    others = sets_of(paths) if has_closed_form(model.architecture, seq_len) else ()
    sets = {name: resolve_targets(name, paths) for name in dict.fromkeys((*others, config.targets))}
    check_served(model.architecture, [sets[config.targets]])
    result = estimate(
        model.architecture,
        config,
        execution,
        sets,
        seq_len,
        None if device_memory is None else device_memory_bytes(device_memory),
        supervised_fraction=supervised_fraction,
        predict=predict,
        model=size,
        defaults_of=model.profile.size,
    )
    notes = [*model.notes, *result.notes]
    return result.model_copy(update={"notes": notes})


def _fitting(config: TrialConfig, given: Mapping[str, Any], paths: Sequence[str]) -> TrialConfig:
    """The config without a size's dropout, DoRA and start where the model's experts, which lack them, are adapted.

    Raises:
        InputError: they were asked for.
    """
    if not are_parameters(resolve_targets(config.targets, paths)):
        return config
    plain = {name: value for name, value in ON_EXPERTS.items() if getattr(config, name) != value}
    for name, value in plain.items():
        if name in given:
            raise InputError(
                f"{name}={given[name]}: PEFT adapts fused experts only with {name}={value}, and target set "
                f"{config.targets!r} has experts"
            )
    return config.model_copy(update=plain)


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _parse_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `--set` says of the trial, and of its execution."""
    settings = parse_overrides(overrides)
    execution = settings.pop("execution", {})
    if not isinstance(execution, Mapping):
        raise InputError(f"--set execution={execution}: name a setting of it, such as execution.plugin=ddp")
    unknown = [name for name in settings if name not in DIMENSION_NAMES]
    if unknown:
        names = [*DIMENSION_NAMES, *(f"execution.{name}" for name in ExecutionSettings.model_fields)]
        raise InputError(f"unknown setting {unknown[0]!r}; there are: {', '.join(names)}")
    return settings, dict(execution)


def _config(profile: Profile, changes: Mapping[str, Any]) -> TrialConfig:
    settings = {**profile.recommended, **changes}
    if "alpha_ratio" in changes:
        settings.pop("alpha", None)
    try:
        return SearchSpace({}).to_config(settings)
    except ValidationError as error:
        raise InputError(explain(error, TrialConfig)) from error


def _execution(profile: Profile, changes: Mapping[str, Any]) -> ExecutionSettings:
    try:
        execution = ExecutionSettings.model_validate({**profile.execution.model_dump(), **changes})
    except ValidationError as error:
        raise InputError(f"execution: {explain(error, ExecutionSettings)}") from error
    check_plugin(execution, "cuda")
    return execution
