"""Writes the tiny Llama as a GGUF file, laid out as llama.cpp's converter would."""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM

_CONTROL, _NORMAL = 3, 1


def write_gguf(
    folder: Path,
    file: Path,
    *,
    architecture: str = "llama",
    scaled_rope: bool = False,
    add_bos: bool | None = None,
    splitting: str = "smollm",
) -> Path:
    """Model and tokenizer of ``folder`` (a `tiny_llama`) as fp32 tensors in one GGUF ``file``."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    _add_shape(writer, model.config)
    _add_tokenizer(writer, folder, splitting, add_bos)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight":  # tied: llama.cpp leaves it out
            continue
        leaf = key.split(".")[-2]
        rows = _interleaved(weight, heads[leaf]) if leaf in heads else weight
        writer.add_tensor(names.get_name(key.removesuffix(".weight")) + ".weight", rows.numpy())
    if scaled_rope:
        writer.add_tensor("rope_freqs.weight", torch.ones(model.config.head_dim // 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, splitting: str, add_bos: bool | None) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].get)
    special = [token["content"] for token in saved["added_tokens"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in saved["model"]["merges"]])
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    writer.add_chat_template(config.get("chat_template") or (folder / "chat_template.jinja").read_text(encoding="utf-8"))


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head in llama.cpp's rotary order (0, d/2, 1, ...); ``weight`` is [heads * d, in]."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
