"""A complete language model small enough to make in a test: random weights, a real tokenizer."""

import json
from pathlib import Path

TEXTS = (
    "The quick brown fox jumps over the lazy dog. What is the capital of France? It is Paris.",
    "user: please write a function. assistant: here is the answer, with a short explanation of it.",
    "def add(left: int, right: int) -> int:\n    return left + right\n",
    "for name in sorted(names):\n    if name.startswith('_'):\n        continue\n    print(name)\n",
    "你好,请问今天天气怎么样?今天天气很好。你是谁?我是一个语言模型。",
    "import os\nclass Reader:\n    def __init__(self, path: str) -> None:\n        self.path = path\n",
    "Return the number of items in the list, or None when the list is empty and no default was given.",
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCAB = 512


def tiny_tokenizer(folder: Path, *, vocab: int = VOCAB, chat_template: bool = True) -> Path:
    """Save a byte-level BPE tokenizer trained on `TEXTS`: any text round-trips, at most ``vocab`` tokens.

    It splits text as SmolLM2 does. ``<|im_end|>`` ends a text, ``<|endoftext|>`` pads; there is no BOS.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML if chat_template else None,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


def tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    vocab: int = VOCAB,
    chat_template: bool = True,
    tie_word_embeddings: bool = True,
) -> Path:
    """Save a random Llama in bf16 with its tokenizer; the same arguments give the same bytes.

    Four heads over two key-value heads (grouped-query attention), MLP width twice ``hidden``, 2048 positions.
    The global random state is left alone.

    Args:
        folder: made when missing.
        seed: of the weights.
        hidden: width of the model; a multiple of 8.
        layers: number of decoder layers.
        vocab: number of embeddings, at least 259 (bytes and special tokens).
        chat_template: whether the tokenizer has ChatML.
        tie_word_embeddings: whether the head shares the embedding's weight.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        pad_token_id=SPECIAL_TOKENS.index("<|endoftext|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True)
    return tiny_tokenizer(folder, vocab=vocab, chat_template=chat_template)


def change_config(folder: Path, **changes: object) -> None:
    """Set fields of a saved model's config.json, for instance to something impossible."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
