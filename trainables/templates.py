"""The chat template: a conversation as the text the model is trained on, and where in it the answers are."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.errors import InputError
from trainables.examples import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For tokenizers of base models, which have no template. Every answer ends with the end-of-sequence token, so
# that the model learns to stop.
FALLBACK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% else %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Llama 3's templates print today's date unless they are given one: tokens must not change overnight. This is
# the date that those templates themselves fall back to.
_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with character positions in it.

    ``answers`` are the (start, end) of the assistant's turns, end-of-turn token included; ``header`` is where
    the template's opening of the last one begins (``<|im_start|>assistant`` in ChatML).
    """

    text: str
    answers: list[tuple[int, int]]
    header: int


def render(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """The conversation in the tokenizer's own template, or else in `FALLBACK_TEMPLATE`.

    If the template refuses a system message, the first user message takes its text in.

    Raises:
        InputError: the template refuses the conversation (for instance, roles that do not alternate).
    """
    from jinja2 import TemplateError

    refusal: Exception | None = None
    for messages in dict.fromkeys([example.messages, _system_merged(example.messages)]):
        try:
            return _locate(messages, tokenizer)
        except (TemplateError, TypeError) as error:
            refusal = refusal or error
    raise InputError(f"{example.where}: the chat template refuses the conversation: {refusal}") from refusal


def _system_merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if [message.role for message in messages[:2]] != ["system", "user"]:
        return messages
    system, user, *rest = messages
    return (Message("user", f"{system.content}\n\n{user.content}"), *rest)


def _locate(messages: tuple[Message, ...], tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    text = _apply(messages, tokenizer)
    answers: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            before = _apply(messages[:index], tokenizer, add_generation_prompt=True)
            through = _apply(messages[: index + 1], tokenizer)
            answers.append(_span(text, before, through, message.content, answers[-1][1] if answers else 0))
    header = _common_length(_apply(messages[:-1], tokenizer), text)
    return Rendered(text, answers, min(header, answers[-1][0]))


def _span(text: str, before: str, through: str, content: str, cursor: int) -> tuple[int, int]:
    """Start and end in ``text`` of the turn by which ``through`` is longer than ``before``.

    Normally both begin the text. Some templates write earlier turns differently once others follow; then the
    turn is looked for after ``cursor``, and failing that, it lies between the longest common beginnings.
    """
    turn = through[_common_length(before, through) :]
    start = len(through) - len(turn)
    if not text.startswith(through):
        found = text.find(turn, cursor)
        if found < 0:
            return _common_length(before, text), _common_length(through, text)
        start = found
    ending = turn.rpartition(content.strip())[2]
    # White space after the end-of-turn token is the template's; without such a token it ends the turn itself.
    return start, start + len(turn.rstrip() if ending.strip() else turn)


def _apply(
    messages: tuple[Message, ...], tokenizer: "PreTrainedTokenizerBase", add_generation_prompt: bool = False
) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=None if tokenizer.chat_template else FALLBACK_TEMPLATE,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        date_string=_DATE,
    )
    return text


def _common_length(first: str, second: str) -> int:
    return len(os.path.commonprefix([first, second]))  # noqa: RUF071  # character by character is the point
