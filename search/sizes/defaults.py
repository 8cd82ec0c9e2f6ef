"""What of a profile follows from the model's shape: one rule per setting, each with its reason.

A size's file holds what is particular to it. What it does not say is decided here, from its parameters and hidden
size; what it does say, another rule may build on (a tenth of the file's own learning rate, say).
"""

from collections.abc import Mapping
from typing import Any

from search.sizes.lora_defaults import add_baseline, add_recommended, add_space, is_mixture
from search.sizes.rules import BILLION, Derived, Rules
from trainables.settings import Architecture


def derive(parameters: int, architecture: Architecture, content: Mapping[str, Any]) -> list[Derived]:
    """Every setting that a profile's ``content`` leaves out, in the order in which they build on each other."""
    rules = Rules(content)
    _add_resource(rules, parameters)
    _add_data(rules, parameters)
    _add_execution(rules, parameters, is_mixture(architecture))
    add_space(rules, parameters, architecture)
    add_recommended(rules, parameters, architecture)
    add_baseline(rules, parameters)
    return rules.derived


def _add_resource(rules: Rules, parameters: int) -> None:
    trials = 24 if parameters < 10 * BILLION else 16 if parameters < 40 * BILLION else 12
    rules.add(
        "trials", trials,
        "Assumed: Optuna's TPE draws its first 10 points at random, the others are to be better than that; "
        "24 below 10 billion parameters, 16 below 40 and 12 beyond, as a trial costs more.",
    )  # fmt: skip
    rules.add(
        "max_examples", 2592 if parameters < 40 * BILLION else 864,
        "2592 = 288 x 3^2: rungs at 288, 864 and 2592, multiples of every batch size. Assumed: the built-in data "
        "have about 5,900 pairs, of which up to a fifth each is held out. Beyond 40 billion parameters a third, for "
        "time: rungs at 96, 288 and 864.",
    )  # fmt: skip
    rules.add("reduction_factor", 3, "The ASHA paper's usual choices are 3 and 4 (arXiv 1810.05934).")
    rules.add(
        "rung_count", 3, "Two decisions about a trial: after a ninth and after a third of the examples."
    )


def _add_data(rules: Rules, parameters: int) -> None:
    rules.add("data.source", "builtin:python-docstrings", "A stand-in that works anywhere; --data is yours.")
    seq_len = 512 if parameters < 2 * BILLION else 1024 if parameters < 5 * BILLION else 2048
    rules.add(
        "data.seq_len", seq_len,
        "Assumed, in tokens: 512 below 2 billion parameters (enough for one question and its answer), 1024 below 5, "
        "2048 beyond.",
    )  # fmt: skip
    held_out = 256 if parameters < 40 * BILLION else 128
    reason = "Assumed: standard errors half of those at 64; beyond 40 billion parameters 128, for time."
    rules.add("data.validation_examples", held_out, reason)
    rules.add("data.test_examples", held_out, "As many as for validation.")


def _add_execution(rules: Rules, parameters: int, mixture: bool) -> None:
    small = parameters < 5 * BILLION
    rules.add(
        "execution.plugin", "zero1" if small else "zero2",
        "ZeRO keeps adapters in bf16 beside fp32 master copies: less memory than DDP's fp32 adapters. On one device "
        "ZeRO-1 and 2 have the same peak; on several, 2 (from 5 billion parameters on) shards gradients as well.",
    )  # fmt: skip
    rules.add("execution.dtype", "bf16", "No loss scaling; the dtype of nearly all published weights.")
    rules.add(
        "execution.devices_per_trial", 1, "Several trials at once give more trials per hour than faster ones."
    )
    rules.add(
        "execution.micro_batch_size", 4 if small else 2,
        "Examples per forward pass: 4 below 5 billion parameters, 2 beyond, for memory.",
    )  # fmt: skip
    rules.add(
        "execution.eval_batch_size", rules["execution.micro_batch_size"],
        "micro_batch_size, so that evaluation never needs more memory than training.",
    )  # fmt: skip
    rules.add(
        "execution.gradient_checkpointing", parameters >= 2 * BILLION,
        "From 2 billion parameters on: about half the memory for a third more computation (arXiv 1604.06174).",
    )  # fmt: skip
    if parameters >= 25 * BILLION and not mixture:  # bitsandbytes has no fused experts
        rules.add(
            "execution.quantize", True,
            "Above 25 billion parameters, 47 GiB in bf16, the frozen base would leave too little of an 80 GiB device: "
            "NF4 with double quantisation (arXiv 2305.14314), from the host's memory, once per worker.",
        )  # fmt: skip
