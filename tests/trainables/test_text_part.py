"""The lines that the vision-language sizes' profiles give for saving the text part of a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
)

from search.sizes import profile_text

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128}  # fmt: skip


def tiny_gemma3() -> Any:
    text = {**TEXT, "sliding_window": 8, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
              "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    tokens = {
        "mm_tokens_per_image": 1,
        "boi_token_index": 125,
        "eoi_token_index": 126,
        "image_token_index": 127,
    }
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens))


def tiny_qwen35() -> Any:
    text = {**TEXT, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "depth": 2, "out_hidden_size": 64}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = dict(zip(names, range(120, 124), strict=True))
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **tokens))


def recipe(size: str) -> str:
    """The code in the profile's comment, without the tokenizer, which the tiny models do not have."""
    lines = [line[4:] for line in profile_text(size).splitlines() if line.startswith("#   ")]
    return "\n".join(line for line in lines if "AutoTokenizer." not in line)


@pytest.mark.parametrize(
    ("size", "whole", "kind"),
    [
        ("gemma3-4b", tiny_gemma3, Gemma3ForCausalLM),
        ("gemma3-12b", tiny_gemma3, Gemma3ForCausalLM),
        ("gemma3-27b", tiny_gemma3, Gemma3ForCausalLM),
        ("qwen3.5-4b", tiny_qwen35, Qwen3_5ForCausalLM),
        ("qwen3.5-9b", tiny_qwen35, Qwen3_5ForCausalLM),
    ],
)
def test_the_saved_text_part_computes_what_the_whole_model_does(
    size: str, whole: Any, kind: type, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = whole().eval()
    for parameter in model.parameters():  # numbers that bf16, in which the recipe saves, holds exactly
        parameter.data = parameter.data.bfloat16().float()
    model.save_pretrained(tmp_path / "whole")
    exec(recipe(size), {"NAME": tmp_path / "whole", "FOLDER": tmp_path / "text"})
    text, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "text", output_loading_info=True, dtype="float32"
    )
    assert type(text) is kind
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(0, 120, (2, 20))
    with torch.no_grad():
        assert torch.equal(text.eval()(tokens).logits, model(input_ids=tokens).logits)
