"""From conversations to tokens: which of them are targets, and how long ones are cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.errors import InputError
from trainables.examples import Example
from trainables.templates import Rendered, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Conversations tokenised in one call: more would only hold more offsets (Python tuples) in memory at once.
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class TokenizedExample:
    """One conversation of T tokens.

    Attributes:
        input_ids: ``[T]`` int32.
        supervised: ``[T]`` bool, true where the token is a target: its loss counts, and it is predicted from
            the position before. Never true at position 0, true somewhere.
        truncated: whether tokens were cut to reach the sequence length.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    truncated: bool = False


def encode(example: Example, tokenizer: "PreTrainedTokenizerBase", seq_len: int) -> TokenizedExample:
    """One example; see `encode_all`."""
    return encode_all([example], tokenizer, seq_len)[0]


def encode_all(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", seq_len: int
) -> list[TokenizedExample]:
    """Token ids and targets of every example, each at most ``seq_len`` tokens long.

    The targets are the assistant's turns: the words and the token that ends the turn, not the template around
    them.

    A conversation that is too long loses tokens in two places. The last answer is cut at its end, but keeps
    at least ``seq_len // 2`` tokens (all, if it has fewer; more, if what comes before is short). What comes
    before it is cut in the middle: half of the room goes to the beginning (system message, instruction), half
    to the text just before the answer, with the template's opening of the answer whole if there is room. The
    first token after that cut is no target, since the token it followed is gone.

    Raises:
        InputError: the template refuses the conversation, or its answer has no token; the text says where.
    """
    encoded: list[TokenizedExample] = []
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        rendered = [render(example, tokenizer) for example in chunk]
        tokens = tokenizer(
            [conversation.text for conversation in rendered],
            add_special_tokens=False,  # the template writes them
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no warning about texts that are about to be truncated
        )
        for example, conversation, ids, offsets in zip(
            chunk, rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
        ):
            encoded.append(_tokenized(example, conversation, ids, offsets, seq_len))
    return encoded


def _tokenized(
    example: Example, conversation: Rendered, ids: list[int], offsets: list[tuple[int, int]], seq_len: int
) -> TokenizedExample:
    input_ids = np.array(ids, dtype=np.int32)
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    supervised = np.zeros(len(ids), dtype=bool)
    first = stop = 0
    for begin, end in conversation.answers:
        # By range and not token by token: some tokenizers give white space inside an answer an empty extent.
        first, stop = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(starts, end, "left"))
        supervised[first:stop] = True
    header = first - int(np.searchsorted(ends, conversation.header, "right"))
    truncated = False
    if len(ids) > seq_len:
        kept, gap = _kept(first, stop, header, seq_len)
        input_ids, supervised = input_ids[kept], supervised[kept]
        supervised[gap] = False
        truncated = len(kept) < stop  # else only white space after the answer went
    supervised[:1] = False
    if first >= stop or not supervised.any():
        raise InputError(f"{example.where}: the tokenizer makes no token of the answer")
    return TokenizedExample(input_ids, supervised, truncated)


def _kept(first: int, stop: int, header: int, seq_len: int) -> tuple[np.ndarray, list[int]]:
    """Which tokens stay when the last answer is ``first:stop``, and where (at most one place) a gap is.

    >>> _kept(first=10, stop=14, header=2, seq_len=8)
    (array([ 0,  1,  8,  9, 10, 11, 12, 13]), [2])
    """
    answer = min(stop - first, max(seq_len // 2, seq_len - first))
    before = min(first, seq_len - answer)
    tail = min(before, max(header, before // 2))
    head = before - tail
    kept = np.concatenate([np.arange(head), np.arange(first - tail, first + answer)])
    return kept, [head] if before < first else []
