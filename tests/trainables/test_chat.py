"""Which tokens are targets, and what is left of a conversation that is too long."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import InputError
from tests.trainables.tokenizers_for_tests import CHATML, tiny_tokenizer
from trainables.chat import TokenizedExample, _kept, encode, encode_all
from trainables.examples import Example, Message
from trainables.templates import render

REFUSE_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML
)
ALTERNATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
# Like Mistral's: the system text stands in the last user turn, so that a shorter conversation is not how a
# longer one begins.
SYSTEM_LAST = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "[{% if loop.last or loop.revindex == 2 %}SYSTEM {% endif %}{{ message['content'] }}]"
    "{% else %}{{ message['content'] }}<|endoftext|>{% endif %}{% endfor %}"
)


def example(*contents: str, system: str = "") -> Example:
    """User and assistant in turn."""
    roles: tuple[Any, Any] = ("user", "assistant")
    messages = [Message(roles[index % 2], content) for index, content in enumerate(contents)]
    return Example((*([Message("system", system)] if system else []), *messages), "g", "data.jsonl:7")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from transformers import AutoTokenizer

    templates = {
        "chatml": CHATML,
        "none": None,
        "refuse-system": REFUSE_SYSTEM,
        "alternate": ALTERNATE,
        "system-last": SYSTEM_LAST,
        "dated": "{{ date_string if date_string is defined else strftime_now('%c') }}" + CHATML,
    }
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        name: AutoTokenizer.from_pretrained(tiny_tokenizer(root / name, template))
        for name, template in templates.items()
    }


def targets(encoded: TokenizedExample, tokenizer: Any) -> str:
    text: str = tokenizer.decode(encoded.input_ids[encoded.supervised])
    return text


def test_only_answers_and_their_end_are_targets(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    encoded = encode(
        example("Where?", "Paris.\n\n  Or so.", "And 中国?", "北京。", system="Be brief."), tokenizer, 500
    )
    assert tokenizer.decode(encoded.input_ids).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )
    assert targets(encoded, tokenizer) == "Paris.\n\n  Or so.<|im_end|>北京。<|im_end|>"
    assert encoded.input_ids.dtype == np.int32
    assert not encoded.truncated
    assert not encoded.supervised[0]


def test_without_a_template_every_answer_ends_the_sequence(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["none"]
    encoded = encode(example("Where?", "Paris.", "When?", "Now.", system="Be brief."), tokenizer, 500)
    assert tokenizer.decode(encoded.input_ids) == (
        "Be brief.\n\nUser: Where?\nAssistant: Paris.<|endoftext|>\n"
        "User: When?\nAssistant: Now.<|endoftext|>\n"
    )
    assert targets(encoded, tokenizer) == " Paris.<|endoftext|> Now.<|endoftext|>"


def test_a_refused_system_message_moves_into_the_user_s(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["refuse-system"]
    encoded = encode(example("Where?", "Paris.", system="Be brief."), tokenizer, 500)
    assert "<|im_start|>user\nBe brief.\n\nWhere?<|im_end|>" in tokenizer.decode(encoded.input_ids)
    assert targets(encoded, tokenizer) == "Paris.<|im_end|>"


def test_a_refused_conversation_says_where(tokenizers: dict[str, Any]) -> None:
    twice = Example(
        (Message("user", "a"), Message("user", "b"), Message("assistant", "c")), "g", "data.jsonl:7"
    )
    with pytest.raises(InputError, match=r"data\.jsonl:7: the chat template refuses .*roles must alternate"):
        encode(twice, tokenizers["alternate"], 100)


def test_a_template_that_rewrites_earlier_turns(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["system-last"]
    encoded = encode(example("Where?", "Paris.", "When?", "Now."), tokenizer, 500)
    assert tokenizer.decode(encoded.input_ids) == "[Where?]Paris.<|endoftext|>[SYSTEM When?]Now.<|endoftext|>"
    assert targets(encoded, tokenizer) == "Paris.<|endoftext|>Now.<|endoftext|>"


def test_today_s_date_is_not_in_the_tokens(tokenizers: dict[str, Any]) -> None:
    text = render(example("Where?", "Paris."), tokenizers["dated"]).text
    assert text.startswith("26 Jul 2024<|im_start|>")


def test_many_are_encoded_like_one(tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.chat._CHUNK", 2)
    examples = [example(f"What is {n}?", f"{n} is {n * 'x'}") for n in range(1, 6)]
    together = encode_all(examples, tokenizers["chatml"], 30)
    for one, encoded in zip(examples, together, strict=True):
        alone = encode(one, tokenizers["chatml"], 30)
        assert alone.input_ids.tolist() == encoded.input_ids.tolist()
        assert alone.supervised.tolist() == encoded.supervised.tolist()


def test_a_long_prompt_is_cut_in_its_middle(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    encoded = encode(example("first " + "x y z " * 100 + "last", "Paris."), tokenizer, 40)
    text = tokenizer.decode(encoded.input_ids)
    assert len(encoded.input_ids) == 40
    assert encoded.truncated
    assert text.startswith("<|im_start|>user\nfirst x y")
    assert text.endswith("z last<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>")
    assert targets(encoded, tokenizer) == "Paris.<|im_end|>"


def test_a_long_answer_is_cut_at_its_end(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    encoded = encode(example("x " * 100, "one two " * 100), tokenizer, 40)
    assert len(encoded.input_ids) == 40
    assert encoded.supervised.sum() == 20
    assert "<|im_start|>assistant\none two" in tokenizer.decode(encoded.input_ids)
    short_prompt = encode(example("x", "one two " * 100), tokenizer, 40)
    assert short_prompt.supervised.sum() > 20
    assert tokenizer.decode(short_prompt.input_ids).startswith(
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant"
    )


def test_losing_only_the_last_line_break_is_no_truncation(tokenizers: dict[str, Any]) -> None:
    whole = encode(example("Where?", "Paris."), tokenizers["chatml"], 100)
    shorter = encode(example("Where?", "Paris."), tokenizers["chatml"], len(whole.input_ids) - 1)
    assert not shorter.truncated
    assert shorter.input_ids.tolist() == whole.input_ids.tolist()[:-1]


words = st.text(alphabet="ab \n你", min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.integers(8, 80))
def test_every_result_fits_and_has_a_target(
    tokenizers: dict[str, Any], pairs: list[tuple[str, str]], seq_len: int
) -> None:
    conversation = example(*chain.from_iterable(pairs))
    for tokenizer in (tokenizers["chatml"], tokenizers["none"]):
        encoded = encode(conversation, tokenizer, seq_len)
        assert len(encoded.input_ids) == len(encoded.supervised) <= seq_len
        assert encoded.supervised.any()
        assert not encoded.supervised[0]
        whole = encode(conversation, tokenizer, 10_000)
        assert encoded.supervised.sum() <= whole.supervised.sum()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9), st.integers(8, 200))
def test_what_is_kept_of_a_long_conversation(before: int, answer: int, header: int, seq_len: int) -> None:
    kept, gap = _kept(before, before + answer, min(header, before), seq_len)
    kept_answer = (kept >= before).sum()
    assert len(kept) <= seq_len
    assert len(kept) == min(seq_len, before + answer)
    assert kept_answer >= min(answer, seq_len // 2)
    assert sorted(set(kept.tolist())) == kept.tolist()
    jumps = [index for index in range(1, len(kept)) if kept[index] != kept[index - 1] + 1]
    assert jumps == [index for index in gap if index > 0]
    header = min(header, before)
    if header <= seq_len - seq_len // 2:
        assert (
            kept[kept < before][-header:].tolist() == list(range(before - header, before))[-header:]
            or header == 0
        )
