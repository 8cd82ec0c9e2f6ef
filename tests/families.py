"""Tiny random models of every family that lorafront is made for, each with what makes its family different."""

from pathlib import Path
from typing import Any

from tests.tiny import SPECIAL_TOKENS, VOCAB, tiny_tokenizer

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LINEAR_ATTENTION = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "olmo2": {},
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 0.5, "embedding_multiplier": 6.0},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "gemma2": {"sliding_window": 32, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 32, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    "gemma4_text": {
        "sliding_window": 32, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "global_head_dim": 32,
    },
    "phi3": {"partial_rotary_factor": 0.75},  # as Phi-4-mini has it
    "glm4": {"partial_rotary_factor": 0.5},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _MIXTURE,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
    "qwen3_next": _MIXTURE | _LINEAR_ATTENTION | {"shared_expert_intermediate_size": 48},
    "qwen3_5_text": _LINEAR_ATTENTION,
    "lfm2": {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
}  # fmt: skip

_WIDER = {"num_local_experts": 4, "num_experts_per_tok": 2}
# Further families, whose configurations have other names or no head_dim: all of them, given as they are.
FURTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": _SHAPE,
    "starcoder2": _SHAPE,
    "cohere2": _SHAPE | {"sliding_window": 32},
    "granitemoe": _SHAPE | _WIDER,
    "olmoe": _SHAPE | {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": _SHAPE | _MIXTURE | {"shared_expert_intermediate_size": 48},
    "qwen3_5_moe_text": _SHAPE | _MIXTURE | _LINEAR_ATTENTION | {"shared_expert_intermediate_size": 48},
    "ernie4_5_moe": _SHAPE | {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48, "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "deepseek_v3": {name: value for name, value in _SHAPE.items() if name != "head_dim"} | {
        "num_key_value_heads": 4, "moe_intermediate_size": 48, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
    "llama4_text": _SHAPE | {
        "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 2,
        "pad_token_id": None,
    },
    "minimax": _SHAPE | _WIDER | {"layer_types": ["linear_attention", "full_attention"] * 2, "block_size": 32},
    "jamba": _SHAPE | {
        "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 8, "use_mamba_kernels": False, "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "falcon_h1": _SHAPE | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "nemotron_h": _SHAPE | {
        "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "n_routed_experts": 4,
        "hybrid_override_pattern": "M*-E", "num_experts_per_tok": 2, "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 48,
    },
}  # fmt: skip


def family_config(family: str, **changes: Any) -> Any:
    """Transformers' configuration of the tiny model of ``family`` (its ``model_type``)."""
    from transformers import AutoConfig

    tokens = {
        "bos_token_id": None,
        "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>"),
        "pad_token_id": SPECIAL_TOKENS.index("<|endoftext|>"),
    }
    return AutoConfig.for_model(family, **{**_SHAPE, **tokens, **FAMILIES.get(family, {}), **changes})


def tiny_model(folder: Path, family: str, *, seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """Save a random model of ``family`` with a tokenizer; the same arguments give the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(family_config(family, **changes), dtype=torch.float32)
        for parameter in model.parameters():  # norms and biases that differ from what a fresh model has
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return tiny_tokenizer(folder)
