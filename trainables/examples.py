"""What one training example is, and how a row of any source becomes one."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from trainables.settings import DataSettings

Role = Literal["system", "user", "assistant"]

# ColossalChat's files say user/human and assistant/gpt (the ShareGPT names) for the same two speakers.
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


class RowError(ValueError):
    """Why one row of the data is unusable; the reader adds where it is."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation that ends with an assistant's answer.

    Examples of one ``group`` never straddle splits. ``where`` is ``file:line``, for error messages.
    """

    messages: tuple[Message, ...]
    group: str
    where: str


def example_from_row(row: Any, where: str, settings: DataSettings) -> Example:
    """The example in a parsed row.

    A row is a list of messages, an object with ``messages``, or one with a prompt and a response. Without a
    group of its own, an example belongs to the group of all examples with the same first prompt.

    Raises:
        RowError: the row is not a usable example, with the reason.
    """
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise RowError(f"expected an object or a list of messages, got {_kind(row)}")
    check_columns(row, settings)
    if "messages" in row:
        messages = _conversation(row["messages"])
    else:
        messages = (
            Message("user", _text(row[settings.prompt_column], settings.prompt_column)),
            Message("assistant", _text(row[settings.response_column], settings.response_column)),
        )
    return Example(messages, _group(row.get(settings.group_column), messages), where)


def check_columns(names: Collection[str], settings: DataSettings) -> None:
    """Check that a row or table has ``messages``, or the prompt and the response column.

    Raises:
        RowError: a column is missing; the text lists those there are.
    """
    if "messages" in names:
        return
    missing = [name for name in (settings.prompt_column, settings.response_column) if name not in names]
    if missing:
        there = ", ".join(map(repr, names)) or "none"
        wanted = " and no ".join(map(repr, missing))
        raise RowError(f"no column {wanted} (and no 'messages'); the columns are: {there}")


def used_columns(names: Collection[str], settings: DataSettings) -> list[str]:
    """Those of a table's columns that an example is made of."""
    turns = {"messages"} if "messages" in names else {settings.prompt_column, settings.response_column}
    return [name for name in names if name in turns | {settings.group_column}]


def looks_like_message(value: Any) -> bool:
    """Whether a parsed JSON value has the form of one turn."""
    return isinstance(value, dict) and "content" in value and ("role" in value or "from" in value)


def _conversation(turns: Any) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise RowError(f"'messages' is {_kind(turns)}, not a list")
    messages = [_message(turn, number) for number, turn in enumerate(turns, 1)]
    while messages and messages[-1].role != "assistant":
        messages.pop()  # nothing after the last answer can be learnt from
    if not messages:
        raise RowError("no assistant message")
    if not any(message.role == "user" for message in messages):
        raise RowError("no user message before the last assistant message")
    return tuple(messages)


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"message {number} is {_kind(turn)}, not an object")
    name = turn.get("role", turn.get("from"))
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"message {number} has the unknown role {name!r}; allowed are {', '.join(_ROLES)}")
    return Message(role, _text(turn.get("content"), f"content of message {number}"))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{name} is {_kind(value)}, not text")
    if not value.strip():
        raise RowError(f"{name} is empty")
    if not is_unicode(value):
        raise RowError(f"{name} is not valid UTF-8 text")
    return value


def is_unicode(value: str) -> bool:
    r"""Whether UTF-8 can hold the text: not with a lone surrogate, as in the JSON ``"\ud800"``."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _group(value: Any, messages: tuple[Message, ...]) -> str:
    if value is None or value == "":
        prompt = next(message.content for message in messages if message.role == "user")
        return "prompt:" + hashlib.sha256(prompt.strip().encode()).hexdigest()[:16]
    if not isinstance(value, str | int | float):
        raise RowError(f"the group is {_kind(value)}, not text or a number")
    return str(value)


def _kind(value: Any) -> str:
    """A value's JSON type, for people."""
    names = {type(None): "missing or null", bool: "a boolean", int: "a number", float: "a number"}
    names |= {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
