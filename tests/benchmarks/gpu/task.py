"""A random model of a size's real shape, random examples, and what is trained on them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from search.config import SweepConfig
from tests.benchmarks.floor.task import Task
from trainables.memory_model import Kind
from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import TrialSpec

LLAMA_MODULES = names_of(LLAMA_PATHS)

EXAMPLES = 256
SUPERVISED = 0.5  # of every example's positions: an answer as long as its question


def random_model(config: SweepConfig, folder: Path, device: str) -> Path:
    """Save a model of the size's architecture with random bf16 weights, unless it is there. It has no tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "model.safetensors").exists():
        return folder
    shape = config.architecture
    with torch.device(device):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.hidden_size,
                intermediate_size=shape.intermediate_size,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.num_heads,
                num_key_value_heads=shape.num_kv_heads,
                head_dim=shape.head_dim,
                tie_word_embeddings=shape.tie_word_embeddings,
                torch_dtype=torch.bfloat16,
            )
        )
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100GB")
    return folder


def random_data(vocab_size: int, seq_len: int) -> Any:
    """In the place of prepared data: examples of full length, the same at every call."""
    import numpy as np

    from trainables.chat import TokenizedExample

    tokens = np.random.default_rng(0).integers(0, vocab_size, (EXAMPLES, seq_len), dtype=np.int32)
    supervised = np.arange(seq_len) >= seq_len * (1 - SUPERVISED)
    examples = [TokenizedExample(row, supervised) for row in tokens]
    return SimpleNamespace(train=examples, validation=examples[:1], test=[], pad_token_id=0)


def make_task(
    config: SweepConfig, folder: Path, kind: Kind, plugin: str, batch_size: int, seq_len: int, steps: int
) -> Task:
    """The size's recommended config, with all linear layers adapted, on batches of one micro-batch each."""
    settings = config.execution.model_copy(update={"plugin": plugin, "micro_batch_size": None})
    recommended = config.search_space.to_config(config.recommended)
    spec = TrialSpec(
        trial_id=kind,
        kind=kind,
        config=recommended.model_copy(update={"batch_size": batch_size}),
        execution=settings,
        target_modules=LLAMA_MODULES if kind == "lora" else (),
        rungs=(batch_size * steps,),
        base_model_path=str(folder),
    )
    data = random_data(config.architecture.vocab_size, seq_len)
    rows = [[(step * batch_size + n) % EXAMPLES for n in range(batch_size)] for step in range(steps + 1)]
    return Task(SimpleNamespace(data=data), spec, rows)
