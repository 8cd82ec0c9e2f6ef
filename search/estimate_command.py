"""`lorafront estimate`: a size's profile with what the command line changes."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search.config import explain
from search.device_memory import device_memory_bytes
from search.errors import InputError
from search.estimate import EstimateResult, estimate
from search.sizes import load_profile
from search.space import SearchSpace
from trainables.modules import TARGET_SETS, resolve_targets
from trainables.settings import TrialConfig


def estimate_size(
    size: str,
    changes: Mapping[str, Any],
    *,
    seq_len: int | None,
    gradient_checkpointing: bool,
    quantize: bool,
    device_memory: str | None,
) -> EstimateResult:
    """The prediction for a size's recommended config with ``changes`` (None keeps the recommendation).

    Raises:
        InputError: an unknown size, set or card, or an impossible number.
    """
    profile = load_profile(size)
    try:
        config = SearchSpace({}).to_config(
            profile.recommended | {k: v for k, v in changes.items() if v is not None}
        )
    except ValidationError as error:
        raise InputError(explain(error, TrialConfig)) from error
    execution = profile.execution.model_copy(
        update={
            "gradient_checkpointing": gradient_checkpointing or profile.execution.gradient_checkpointing,
            "quantize": quantize or profile.execution.quantize,
        }
    )
    sets = {name: resolve_targets(name) for name in {*TARGET_SETS, config.targets}}
    length = profile.data.seq_len if seq_len is None else seq_len
    memory = device_memory_bytes(device_memory) if device_memory else None
    return estimate(profile.architecture, config, execution, sets, length, memory)
