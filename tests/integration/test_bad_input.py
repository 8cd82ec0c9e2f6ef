"""Every kind of bad input: one line that begins with `error:`, exit code 2, no traceback, nothing written."""

from pathlib import Path

import pytest

from tests.integration.conftest import lorafront

pytestmark = pytest.mark.timeout(1500)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "llama9"], "unknown size 'llama9'; there are: smollm2-135m"),
        (["sweep", "--set", "space.targets=nonsense", "--dry-run"], "nonsense"),
        (["sweep", "--set", "execution.plugin=fsdp"], "'ddp', 'zero1'"),
        (["sweep", "--set", "nosuch=1"], "unknown setting 'nosuch'"),
        (["sweep", "--set", "space.rnk=1"], "unknown search dimension 'rnk'"),
        (["sweep", "--trials", "0"], "trials"),
        (["sweep", "--max-examples", "-5"], "max_examples"),
        (["sweep", "--set", "space.rank=-1"], "space.rank"),
        (["sweep", "--memory-budget", "lots"], "memory size 'lots'"),
        (["sweep", "--time-budget", "soon"], "duration 'soon'"),
        (["sweep", "--nonsense"], "--nonsense"),
        (["sweep", "--config", "missing.yaml"], "missing.yaml"),
        (
            ["sweep", "--warm-start", "model", "--base-model", "model", "--data", "chat.jsonl"],
            "neither a run folder",
        ),
        (["sweep", "--confirm", "-1"], "confirm"),
        (["sweep", "--base-model", "model", "--data", "missing.jsonl"], "missing.jsonl"),
        (["sweep", "--base-model", "model", "--data", "empty.jsonl"], "empty.jsonl"),
        (["sweep", "--base-model", "model", "--data", "bad.jsonl"], "bad.jsonl:2"),
        (["sweep", "--base-model", "nowhere/", "--data", "chat.jsonl"], "nowhere"),
        (
            ["sweep", "--base-model", "model", "--data", "chat.jsonl", "--set", "execution.plugin=zero2"],
            "zero2",
        ),
        (
            ["sweep", "--base-model", "model", "--data", "chat.jsonl", "--set", "space.targets=zz_proj"],
            "zz_proj",
        ),
        (
            ["sweep", "--base-model", "model", "--data", "chat.jsonl", "--memory-budget", "1KiB"],
            "memory budget",
        ),
        (["sweep", "--out", "model"], "exists already"),
        (["sweep", "--address", "127.0.0.1:1"], "cannot connect to the Ray cluster at 127.0.0.1:1"),
        (["sweep", "--address", "ray://host:10001"], "neither auto nor HOST:PORT"),
        (["report", "model"], "not a run folder"),
        (["resume", "model"], "not a run folder"),
        (["export", "model", "--pick", "knee", "--to", "x"], "not a run folder"),
        (["report", "model", "--format", "pdf"], "--format 'pdf'"),
        (["estimate", "llama3-8b", "--rank", "0"], "rank"),
        (["estimate", "llama3-8b", "--seq-len", "0"], "sequence length 0"),
        (["estimate", "llama3-8b", "--device-memory", "abacus"], "abacus"),
        (["estimate", "llama3-8b", "--rank", "10000"], "4096, not 10000"),
        (["estimate", "llama3-8b", "--batch-size", "0"], "batch_size"),
        (["estimate", "llama3-8b", "--set", "execution.devices_per_trial=7"], "7 devices cannot share"),
        (["estimate", "other"], "is not a Llama but of model_type 'gpt2'"),
    ],
)
def test_one_line_and_exit_code_2(workshop: Path, arguments: list[str], words: str) -> None:
    (workshop / "empty.jsonl").touch()
    (workshop / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    (workshop / "other").mkdir(exist_ok=True)
    (workshop / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    done = lorafront(*arguments, cwd=workshop)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert words in line
    assert not (workshop / "runs").exists()
