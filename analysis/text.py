"""How figures and configurations read, the same in the terminal, the figures and the report."""

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.records import TrialRecord

MISSING = "–"

# The order in which people think about an adapter; anything else follows in the config's own order.
_FIRST_KEYS = ("rank", "alpha", "targets", "learning_rate", "batch_size")
# Follows from `targets`, so it is no setting of its own.
DERIVED_KEY = "target_modules"
_SHORT_LABELS = {"rank": "r", "alpha": "α", "targets": "", "learning_rate": "lr", "batch_size": "batch"}


def number_text(value: Any) -> str:
    """A value of a config or a measured figure, to three significant digits.

    >>> number_text(0.00129971), number_text(16.0), number_text(48), number_text(None), number_text(True)
    ('0.0013', '16', '48', '–', 'yes')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def loss_text(loss: float | None, stderr: float | None = None) -> str:
    """A loss with its standard error where there is one.

    >>> loss_text(3.3012, 0.0912), loss_text(None)
    ('3.301 ± 0.091', '–')
    """
    if loss is None:
        return MISSING
    return f"{loss:.3f}" if stderr is None else f"{loss:.3f} ± {stderr:.3f}"


def percent_text(share: float) -> str:
    """A share in percent: whole, but with a digit more near zero, where rounding would hide it.

    >>> percent_text(0.934), percent_text(0.004)
    ('93 %', '0.4 %')
    """
    percent = 100 * share
    return f"{percent:.1f} %" if abs(percent) < 1 else f"{percent:.0f} %"


def ordered_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its best-known settings first."""
    keys = [key for key in _FIRST_KEYS if key in config] + [key for key in config if key not in _FIRST_KEYS]
    return {key: config[key] for key in keys}


def config_summary(config: Mapping[str, Any]) -> str:
    """The best-known settings in one short line.

    >>> config_summary({"dropout": 0.0, "rank": 8, "alpha": 16.0, "targets": "mlp", "learning_rate": 1e-3})
    'r 8, α 16, mlp, lr 0.001'
    """
    known = {key: label for key, label in _SHORT_LABELS.items() if key in config}
    return ", ".join(f"{label} {number_text(config[key])}".strip() for key, label in known.items())


def label_of(key: str) -> str:
    """A config key for people.

    >>> label_of("learning_rate")
    'learning rate'
    """
    return key.replace("_", " ")


def short_label(key: str) -> str:
    """A config key as a narrow column's heading.

    >>> short_label("learning_rate"), short_label("weight_decay")
    ('lr', 'weight decay')
    """
    return {"learning_rate": "lr", "batch_size": "batch"}.get(key, label_of(key))


def varying_keys(trials: Iterable[TrialRecord]) -> list[str]:
    """The config keys that differ between trials, best-known first."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.config.items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key in ordered_config(values) if len(values[key]) > 1 and key != DERIVED_KEY]
