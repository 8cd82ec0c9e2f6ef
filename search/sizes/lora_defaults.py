"""The rules for what is searched: LoRA's space, the point that is tried first, and the full fine-tuning baseline."""

from search.sizes.rules import BILLION, Rules, learning_rate_rule, nearest
from trainables.settings import Architecture

MIXTURE_FIELDS = ("num_experts", "num_local_experts")
"""What transformers' configurations call the number of experts (Qwen3-MoE; Mixtral and gpt-oss)."""

DENSE_SETS = ("attention-qv", "attention-qkv", "attention", "mlp", "all-linear")
MIXTURE_SETS = ("attention-qv", "attention-qkv", "attention", "experts", "all-linear")


def is_mixture(architecture: Architecture) -> bool:
    """Whether tokens are sent to experts."""
    return any(architecture.config.get(name) for name in MIXTURE_FIELDS)


def active_experts(architecture: Architecture) -> int:
    """The experts that a token goes through; 1 where there are none."""
    return int(architecture.config.get("num_experts_per_tok") or 1) if is_mixture(architecture) else 1


def add_space(rules: Rules, parameters: int, architecture: Architecture) -> None:
    """The search space."""
    rules.add("space.rank", _ranks(parameters, architecture), _rank_reason(architecture))
    rules.add(
        "space.alpha_ratio", {"low": 0.25, "high": 4.0, "log": True},
        "alpha / rank: the conventions 1 and 2, with a margin.",
    )  # fmt: skip
    rules.add("space.targets", _sets(architecture), _sets_reason(architecture))
    rate = learning_rate_rule(architecture.hidden_size)
    low, high = nearest(rate / 5, (1, 2, 3, 5)), nearest(2.75 * rate, (1, 1.5, 2, 3, 4, 6, 8))
    rules.add(
        "space.learning_rate", {"low": low, "high": high, "log": True},
        f"A fifth and 2.75 times of the rule under recommended, {rate:.1e}, in round numbers: these are the design "
        "notes' ranges for 1 to 70 billion parameters (1e-4 to 1.5e-3 down to 3e-5 to 4e-4).",
    )  # fmt: skip
    rules.add(
        "space.batch_size", [4, 8, 16, 32],
        "Divisors of the first rung, so that every rung ends on whole batches.",
    )  # fmt: skip


def _ranks(parameters: int, architecture: Architecture) -> list[int]:
    """Of a mixture the range of the model that a token goes through, divided by the number of experts in it."""
    if is_mixture(architecture):
        active = active_experts(architecture)
        return [rank // active for rank in (8, 16, 32, 64)]
    if parameters < 10 * BILLION:
        return [8, 16, 32, 64, 128]
    return [8, 16, 32, 64] if parameters < 40 * BILLION else [4, 8, 16, 32, 64]


def _rank_reason(architecture: Architecture) -> str:
    if is_mixture(architecture):
        active = active_experts(architecture)
        return (
            f"8 to 64 divided by the {active} experts of a token, as in 'LoRA Without Regret' (Schulman et al., 2025): "
            "every expert has adapters of its own, so memory grows with rank x all experts."
        )
    return "Assumed: 8 to 128 below 10 billion parameters, 8 to 64 below 40, 4 to 64 beyond."


def _sets(architecture: Architecture) -> list[str]:
    return list(MIXTURE_SETS if is_mixture(architecture) else DENSE_SETS)


def _sets_reason(architecture: Architecture) -> str:
    if is_mixture(architecture):
        return (
            "Attention alone, the experts alone, or both: attention's adapters are less than a tenth of the experts', "
            "but the experts are nearly all of the model."
        )
    return (
        "From the LoRA paper's choice (arXiv 2106.09685, section 4.2) to every linear module of the layers."
    )


def add_recommended(rules: Rules, parameters: int, architecture: Architecture) -> None:
    """The point of the space that is tried first."""
    mixture = is_mixture(architecture)
    rank = 32 // active_experts(architecture)
    shared = ", divided by the experts of a token (see space.rank)" if mixture else ""
    rules.add("recommended.rank", rank, f"32, tinker-cookbook's default for most tasks{shared}.")
    rules.add(
        "recommended.alpha_ratio", 2.0 if mixture else 1.0,
        "The LoRA convention alpha = 2 r; the rule's own alpha = 32 would be 4 and more at so small ranks."
        if mixture else
        "The learning rate's rule was fitted with alpha = 32 (Schulman et al., 'LoRA Without Regret', 2025): 1 at "
        "rank 32.",
    )  # fmt: skip
    rules.add(
        "recommended.targets", "all-linear",
        "Best at equal parameters in the QLoRA paper (arXiv 2305.14314, section 4).",
    )  # fmt: skip
    hidden = architecture.hidden_size
    rules.add(
        "recommended.learning_rate", learning_rate_rule(hidden),
        f"5e-4 x (2000 / {hidden})^0.781: tinker-cookbook's rule for Llama (hyperparam_utils.py); for other families "
        "assumed.",
    )  # fmt: skip
    examples, batches = rules["max_examples"], rules["space.batch_size"]
    rules.add(
        "recommended.batch_size", max((batch for batch in batches if examples / batch >= 100), default=min(batches)),
        f"The largest that gives {examples} examples 100 steps at least, as tinker-cookbook advises.",
    )  # fmt: skip


def add_baseline(rules: Rules, parameters: int) -> None:
    """Full fine-tuning."""
    enabled = parameters < 3.5 * BILLION
    rules.add(
        "baseline.enabled", enabled,
        "On: one 80 GiB device holds it; weights, gradients, masters and Adam's states take 16 bytes per parameter."
        if enabled else
        "Off: with 16 bytes per parameter and the activations one 80 GiB device does not hold full fine-tuning from "
        "3.5 billion parameters on.",
    )  # fmt: skip
    rules.add(
        "baseline.learning_rate", float(f"{rules['recommended.learning_rate'] / 10:.2g}"),
        "A tenth of LoRA's ('LoRA Without Regret').",
    )  # fmt: skip
    rules.add("baseline.batch_size", rules["recommended.batch_size"], "As recommended for LoRA.")
