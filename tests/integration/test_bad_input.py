"""Every kind of bad input: one line that begins with `error:`, exit code 2, no traceback, nothing written."""

import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import lorafront
from tests.tiny import change_config

pytestmark = pytest.mark.timeout(1500)

BAD_MODELS = {
    "newer": "is of model_type 'new9', which the installed transformers",
    "own-code": "needs its own code (trust_remote_code), which lorafront never runs",
    "headless": "is not a causal language model but LlamaModel",
    "classifier": "is not a causal language model but LlamaForSequenceClassification",
    "seeing": "is a vision-language model (Gemma3ForConditionalGeneration)",
    "quantised": "is quantised (gptq) already: give the 16-bit model",
    "no-layers": "models of model_type 'longcat_flash' cannot be served",
}
_CHANGES: dict[str, dict[str, object]] = {
    "newer": {"model_type": "new9"},
    "own-code": {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
    "headless": {"architectures": ["LlamaModel"]},
    "classifier": {"architectures": ["LlamaForSequenceClassification"]},
    "seeing": {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"depth": 1},
        "text_config": {"model_type": "gemma3_text"},
    },
    "quantised": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "no-layers": {"model_type": "longcat_flash", "architectures": ["LongcatFlashForCausalLM"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_models(workshop: Path) -> None:
    """Copies of the tiny model, each with something in its config.json that it cannot be trained with."""
    for name, changes in _CHANGES.items():
        change_config(Path(shutil.copytree(workshop / "model", workshop / name)), **changes)


@pytest.mark.usefixtures("bad_models")
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
        (["estimate", "llama3-8b", "--device-memory", "24"], "for 24 GiB give 24GiB"),
        (["estimate", "nobody/nothing"], "not in the hub's cache on this machine"),
        (["estimate", "own.txt"], "neither a config.json nor a .gguf file"),
        *(
            (command, words)
            for name, words in BAD_MODELS.items()
            for command in (
                ["sweep", "--base-model", name, "--data", "chat.jsonl"],
                ["sweep", "--base-model", name, "--data", "chat.jsonl", "--dry-run"],
                ["estimate", name],
            )
        ),
    ],
)
def test_one_line_and_exit_code_2(workshop: Path, arguments: list[str], words: str) -> None:
    (workshop / "empty.jsonl").touch()
    (workshop / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    (workshop / "own.txt").touch()
    done = lorafront(*arguments, cwd=workshop)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert words in line
    assert not (workshop / "runs").exists()
