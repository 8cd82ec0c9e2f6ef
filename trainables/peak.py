"""The predicted peak memory of a training step: in closed form where that is proven, by tracing elsewhere."""

from typing import Any

from trainables.memory_model import predict_peak
from trainables.settings import PLAIN_FAMILIES, Architecture
from trainables.step_memory import PredictedMemory


def predicted_peak(arch: Architecture, *settings: Any, seq_len: int, **more: Any) -> PredictedMemory:
    """As `trainables.memory_model.predict_peak`, which takes the same arguments, for a model of any family.

    Of a plain Llama without torch, in microseconds. Of another family the first call imports it and traces.
    """
    if has_closed_form(arch, seq_len):
        return predict_peak(arch, *settings, seq_len=seq_len, **more)
    from trainables.trace import trace_peak

    return trace_peak(arch, *settings, seq_len=seq_len, **more)


def has_closed_form(arch: Architecture, seq_len: int) -> bool:
    """Whether `predict_peak` is proven for the model: a plain Llama whose every layer sees the whole sequence."""
    window = arch.config.get("sliding_window")
    sees_all = not isinstance(window, int) or seq_len < window
    return arch.model_type in PLAIN_FAMILIES and (sees_all or arch.model_type == "llama")
