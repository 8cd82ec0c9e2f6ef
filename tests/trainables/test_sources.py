"""Every source gives the same examples, and every kind of bad row is named by file, line and reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.errors import InputError
from trainables.examples import Example, Message
from trainables.settings import DataSettings
from trainables.sources import read_examples

QUESTION = Message("user", "法国的首都是哪里？")
ANSWER = Message("assistant", "巴黎。")


def read(path: Path | str, **settings: Any) -> list[Example]:
    return read_examples(DataSettings(source=str(path), **settings), Path("unused"))


def write(path: Path, *lines: Any, encoding: str = "utf-8") -> Path:
    """One line each; what is no text becomes JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding=encoding)
    return path


def turns(*pairs: tuple[Any, Any], role: str = "role") -> list[dict[str, Any]]:
    return [{role: speaker, "content": content} for speaker, content in pairs]


CONVERSATION = turns(("user", QUESTION.content), ("assistant", ANSWER.content))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns(("user", QUESTION.content), ("assistant", ANSWER.content), role="from")},
        {"messages": turns(("human", QUESTION.content), ("gpt", ANSWER.content), role="from")},
        {"messages": CONVERSATION, "id": 7},
        CONVERSATION,
        {"prompt": QUESTION.content, "response": ANSWER.content},
    ],
    ids=["colossalchat", "human-gpt", "role", "bare-list", "columns"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_lines_in_every_form(tmp_path: Path, row: Any, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", row, "", row)
    examples = read(path)
    assert [example.messages for example in examples] == [(QUESTION, ANSWER)] * 2
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:3"]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.jsonl", CONVERSATION, encoding="utf-8-sig"))) == 1
    assert len(read(write(tmp_path / "a.json", [[*CONVERSATION]], encoding="utf-8-sig"))) == 1
    assert len(read(write(tmp_path / "a.csv", "prompt,response", "a,b", encoding="utf-8-sig"))) == 1


def test_one_big_json_array_has_line_numbers(tmp_path: Path) -> None:
    row = {"prompt": "why?", "response": "so"}
    path = tmp_path / "array.json"
    path.write_text(json.dumps([row, {"messages": CONVERSATION}, CONVERSATION], indent=1), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    examples = read(path)
    assert len(examples) == 3
    for example in examples:
        line = int(example.where.rpartition(":")[2])
        assert lines[line - 1] in (" {", " [")
    assert read(write(tmp_path / "one.json", "[" + json.dumps(row) + "]"))[0].where.endswith(":1")


def test_a_broken_json_array_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "[", '{"prompt": "a", "response": "b"},', '{"prompt": }', "]")
    with pytest.raises(InputError, match=r"a\.json:3: not JSON"):
        read(path)
    path = write(tmp_path / "b.json", CONVERSATION, "9" * 5000, CONVERSATION)
    with pytest.raises(InputError, match=r"b\.json:2: not readable JSON .*\(1 of 3"):
        read(path)


def test_turns_after_the_last_answer_are_dropped(tmp_path: Path) -> None:
    messages = [*turns(("system", "Be brief.")), *CONVERSATION, *turns(("user", "And Spain's?"))]
    assert read(write(tmp_path / "a.jsonl", messages))[0].messages == (
        Message("system", "Be brief."), QUESTION, ANSWER,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{'prompt': 1}", "not JSON"),
        ('{"prompt": "a", ', "not JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("3", "expected an object or a list of messages, got a number"),
        ({"question": "a", "response": "b"}, "no column 'prompt' .*the columns are: 'question', 'response'"),
        ({"prompt": "", "response": "b"}, "prompt is empty"),
        ({"prompt": "a", "response": " \n"}, "response is empty"),
        ({"prompt": "a", "response": None}, "response is missing or null, not text"),
        ({"prompt": 5, "response": "b"}, "prompt is a number, not text"),
        ({"prompt": "a", "response": "b", "group": ["c"]}, "the group is a list"),
        ('{"prompt": "a", "response": "\\ud800"}', "response is not valid UTF-8"),
        ({"messages": "hello"}, "'messages' is text, not a list"),
        ({"messages": ["hello"]}, "message 1 is text, not an object"),
        (
            turns(("user", "a"), ("tool", "b")),
            "message 2 has the unknown role 'tool'; allowed are .*assistant",
        ),
        ([{"content": "a"}], "message 1 has the unknown role None"),
        (turns(("user", "a"), ("system", "b")), "no assistant message"),
        ([], "no assistant message"),
        (turns(("assistant", "a")), "no user message"),
        (turns(("user", "a"), ("assistant", "  ")), "content of message 2 is empty"),
        (turns(("user", ["a"]), ("assistant", "b")), "content of message 1 is a list, not text"),
        ([{"role": "user"}], "content of message 1 is missing or null"),
    ],
)
def test_a_bad_row_names_file_line_reason_and_how_many(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "bad.jsonl", CONVERSATION, row, CONVERSATION, row)
    with pytest.raises(InputError, match=rf"bad\.jsonl:2: {reason}.*\(2 of 4 rows are bad\)$") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", CONVERSATION, CONVERSATION, encoding="gbk")
    with pytest.raises(InputError, match=r"a\.jsonl:1: not valid UTF-8 text \(2 of 2"):
        read(lines)
    rows = write(tmp_path / "a.csv", "prompt,response", "a,b", "法国,巴黎", encoding="gbk")
    with pytest.raises(InputError, match=r"a\.csv:3: prompt is not valid UTF-8 text \(1 of 2"):
        read(rows)
    header = write(tmp_path / "b.csv", "问题,回答", "a,b", encoding="gbk")
    with pytest.raises(InputError, match=r"b\.csv:1: not valid UTF-8"):
        read(header)


def test_csv_rows_of_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id, prompt ,response", '1,"two\nlines","a ""b"", c"', "", "2,你好,世界")
    first, second = read(path)
    assert [message.content for message in first.messages] == ["two\nlines", 'a "b", c']
    assert [message.content for message in second.messages] == ["你好", "世界"]
    assert (first.where, second.where) == (f"{path}:2", f"{path}:5")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["prompt;response", "a;b"], r":1: no column 'prompt' and no 'response' .*'prompt;response'"),
        (["prompt,prompt,response", "a,b,c"], ":1: a column name occurs twice"),
        (["prompt,response", "a,b", "a,b,c"], r":3: 3 fields where the header has 2 \(1 of 2"),
        (["prompt,response", "a,b", '"a,b', "c,d"], ":3: not CSV"),
        (["prompt,response"], "has no rows"),
    ],
)
def test_bad_csv(tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(write(tmp_path / "a.csv", *lines))


def test_named_columns_and_groups(tmp_path: Path) -> None:
    names = {"prompt_column": "q", "response_column": "a", "group_column": "topic"}
    path = write(tmp_path / "a.csv", "q,a,topic", "one,1,x", "two,2,x", "three,3,", "three,3.0,")
    groups = [example.group for example in read(path, **names)]
    assert groups[:2] == ["x", "x"]
    assert groups[2] == groups[3] != "x"  # without a group, equal prompts are one


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"prompt": [QUESTION.content, "b"], "response": [ANSWER.content, "c"], "group": [1, 1]}
    pq.write_table(pa.table(rows), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"messages": [CONVERSATION] * 2}), tmp_path / "messages.parquet")
    examples = read(tmp_path / "columns.parquet")
    assert examples[0] == Example((QUESTION, ANSWER), "1", f"{tmp_path}/columns.parquet:row 1")
    assert read(tmp_path / "messages.parquet")[1].messages == (QUESTION, ANSWER)


def test_bad_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a", None], "response": ["b", "c"]}), tmp_path / "null.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    write(tmp_path / "no.parquet", "this is text")
    with pytest.raises(InputError, match=r"null\.parquet:row 2: prompt is missing or null"):
        read(tmp_path / "null.parquet")
    with pytest.raises(InputError, match=r"text\.parquet: no column 'prompt'.*'text'"):
        read(tmp_path / "text.parquet")
    with pytest.raises(InputError, match=r"no\.parquet is not a readable Parquet file"):
        read(tmp_path / "no.parquet")


def test_files_that_cannot_be_data(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name, reason in [
        ("missing.jsonl", "no such file"), ("", "is a folder"), ("empty.jsonl", "is empty"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=reason):
            read(tmp_path / name)
    with pytest.raises(InputError, match=r"ends in '\.txt'; allowed are \.jsonl, \.json, \.csv, \.parquet"):
        read(write(tmp_path / "a.txt", "hello"))
    with pytest.raises(InputError, match="has no rows"):
        read(write(tmp_path / "a.json", "[]"))


@pytest.mark.parametrize(
    "name", ["", "data.jsonl", "data/train.csv", "../x/y", "csv", "a b/c", "a\0b", "~nobody/x"]
)
def test_what_is_neither_file_nor_hub_name(name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(name)


def test_unknown_builtin() -> None:
    with pytest.raises(InputError, match="there is builtin:python-docstrings"):
        read("builtin:poems")


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"messages": CONVERSATION, "source": "x"}] * 3)
    asked = []

    def load_dataset(name: str, split: str) -> Any:
        asked.append((name, split))
        return table

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = read("owner/name", hub_split="train[:3]")
    assert asked == [("owner/name", "train[:3]")]
    assert [example.where for example in examples] == [f"owner/name:row {n}" for n in (1, 2, 3)]
    assert examples[0].messages == (QUESTION, ANSWER)
    table = datasets.Dataset.from_list([{"text": "a"}])
    with pytest.raises(InputError, match="hub data set 'owner/name': no column 'prompt'"):
        read("owner/name")


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InputError, match="no such file: 'owner/name', and the hub cannot be reached"):
        read("owner/name")


def test_hub_split_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, split: str) -> Any:
        raise ValueError('Unknown split "dev".\nShould be one of [train].')

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"split 'dev' cannot be loaded: Unknown split \"dev\"\.$"):
        read("owner/name", hub_split="dev")
