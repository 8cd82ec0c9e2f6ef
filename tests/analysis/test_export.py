import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.export import export_preset, sweep_section
from analysis.front import front_members
from analysis.presets import pick
from analysis.records import TrialRecord
from analysis.results import Run, load_run
from search.errors import InputError
from tests.analysis.synthetic import TARGET_MODULES

# The flags of `lora_finetune.py` and the fields of `coati.models.lora.LoraConfig` in ColossalAI v0.5.0.
LORA_FINETUNE_FLAGS = {
    "pretrained", "dataset", "plugin", "save_dir", "tensorboard_dir", "config_file", "num_epochs",
    "accumulation_steps", "batch_size", "lr", "max_length", "mixed_precision", "grad_clip", "weight_decay",
    "warmup_steps", "use_grad_checkpoint", "use_flash_attn", "tp", "pp", "sp", "ep", "zero_stage", "sp_mode",
    "enable_sequence_parallelism", "zero_cpu_offload", "microbatch_size", "lora_rank", "lora_alpha",
}  # fmt: skip
LORA_FINETUNE_PLUGINS = {"gemini", "gemini_auto", "zero2", "zero2_cpu", "3d", "ddp", "moe"}
COATI_LORA_FIELDS = {
    "r", "lora_alpha", "linear_lora_dropout", "embedding_lora_dropout", "lora_train_bias",
    "lora_initialization_method", "target_modules",
}  # fmt: skip


@pytest.fixture
def trial(run: Run) -> TrialRecord:
    return pick(run.front, "knee")


@pytest.fixture
def preset(run: Run, trial: TrialRecord, tmp_path: Path) -> Path:
    return export_preset(run, trial, tmp_path / "presets" / "mine")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_folder_holds_what_the_design_says_and_nothing_else(preset: Path) -> None:
    assert {str(path.relative_to(preset)) for path in preset.rglob("*") if path.is_file()} == {
        "preset.yaml",
        "adapter_config.json",
        "adapter_model.safetensors",
        "colossalchat/lora_finetune.json",
        "colossalchat/lora_finetune.args",
        "colossalchat/lora_config.json",
        "colossalchat/README.md",
    }
    assert [path.name for path in preset.parent.iterdir()] == ["mine"]
    assert preset.stat().st_mode & 0o777 == 0o755


def test_the_adapter_is_copied_byte_for_byte(run: Run, trial: TrialRecord, preset: Path) -> None:
    assert trial.checkpoint is not None
    source = run.paths.root / trial.checkpoint / "adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (preset / name).read_bytes() == (source / name).read_bytes()


def test_preset_says_settings_figures_and_origin(run: Run, trial: TrialRecord, preset: Path) -> None:
    text = (preset / "preset.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert "&id" not in text  # aliases are legal, but people read this
    assert content["size"] == "smollm2-135m"
    assert content["base_model"] == run.config["base_model"]
    assert content["lora"]["rank"] == trial.config["rank"]
    assert content["lora"]["alpha"] == trial.config["alpha"]
    assert content["lora"]["target_modules"] == sorted(TARGET_MODULES[trial.config["targets"]])
    assert {"dropout", "use_rslora", "use_dora", "init"} <= set(content["lora"])
    assert content["training"]["learning_rate"] == trial.config["learning_rate"]
    assert content["training"]["plugin"] == "ddp"
    assert content["measured"]["eval_loss"] == trial.eval_loss
    assert content["measured"]["peak_memory_bytes"] == trial.peak_memory_bytes
    assert content["measured"]["base_eval_loss"] == 4.71
    assert run.front.headline is not None
    assert content["measured"]["against_full_fine_tuning"]["retention"] == run.front.headline.retention
    assert content["origin"]["trial_id"] == trial.trial_id
    assert content["origin"]["command"] == "lorafront sweep smollm2-135m --name demo"
    assert content["versions"]["peft"] == "0.13.2"


def test_sweep_section_fixes_every_dimension_to_a_scalar(run: Run, trial: TrialRecord, preset: Path) -> None:
    sweep = yaml.safe_load((preset / "preset.yaml").read_text(encoding="utf-8"))["sweep"]
    assert sweep == sweep_section(run, trial)
    assert {"size", "base_model", "data", "max_examples", "space"} <= set(sweep)
    assert all(isinstance(value, int | float | str | bool) for value in sweep["space"].values())
    assert sweep["space"]["alpha_ratio"] * sweep["space"]["rank"] == pytest.approx(trial.config["alpha"])
    assert sweep["recommended"] == sweep["space"]
    assert not {"name", "tracking_uri", "address", "concurrent", "time_budget"} & set(sweep)


def test_sweep_section_is_a_valid_configuration(trial: TrialRecord, preset: Path) -> None:
    config_module = pytest.importorskip("search.config")
    config = config_module.resolve_config(None, config_file=preset / "preset.yaml")
    assert config.size == "smollm2-135m"
    assert config.trials == 1
    assert config.search_space.to_yaml()["rank"] == trial.config["rank"]


def test_lora_finetune_arguments_are_flags_of_the_script(trial: TrialRecord, preset: Path) -> None:
    arguments = read_json(preset / "colossalchat" / "lora_finetune.json")
    assert set(arguments) <= LORA_FINETUNE_FLAGS
    assert arguments["plugin"] in LORA_FINETUNE_PLUGINS
    assert arguments["mixed_precision"] in {"fp16", "bf16"}
    assert arguments["lora_rank"] == trial.config["rank"]
    assert isinstance(arguments["lora_alpha"], int)  # argparse refuses 2.61
    assert arguments["lora_alpha"] == round(trial.config["alpha"])
    assert arguments["lr"] == trial.config["learning_rate"]
    assert arguments["max_length"] == 128
    assert arguments["pretrained"] == "models/smollm2"  # the folder made of the wheel's file
    words = shlex.split((preset / "colossalchat" / "lora_finetune.args").read_text())
    assert dict(zip(words[::2], words[1::2], strict=True)) == {f"--{k}": str(v) for k, v in arguments.items()}


@pytest.mark.parametrize(
    ("micro_batch_size", "expected"), [(None, (8, 1)), (2, (2, 4)), (3, (3, 3)), (16, (8, 1))]
)
def test_effective_batch_is_reached_by_accumulation(
    run: Run, trial: TrialRecord, tmp_path: Path, micro_batch_size: int | None, expected: tuple[int, int]
) -> None:
    run.config["execution"]["micro_batch_size"] = micro_batch_size
    trial.config["batch_size"] = 8
    folder = export_preset(run, trial, tmp_path / "preset")
    arguments = read_json(folder / "colossalchat" / "lora_finetune.json")
    assert (arguments["batch_size"], arguments["accumulation_steps"]) == expected


@pytest.mark.parametrize(
    ("source", "dataset"),
    [("chats/my data.jsonl", "chats/my data.jsonl"), ("table.csv", "PATH/TO/conversations.jsonl")],
)
def test_only_conversations_in_jsonl_are_passed_on(
    run: Run, trial: TrialRecord, tmp_path: Path, source: str, dataset: str
) -> None:
    run.config["data"]["source"] = source
    run.config["base_model"] = "meta-llama/Llama-3.2-1B"
    folder = export_preset(run, trial, tmp_path / "preset")
    arguments = read_json(folder / "colossalchat" / "lora_finetune.json")
    assert arguments["dataset"] == dataset
    assert arguments["pretrained"] == "meta-llama/Llama-3.2-1B"


def test_coati_config_has_exactly_the_fields_of_its_class(trial: TrialRecord, preset: Path) -> None:
    config = read_json(preset / "colossalchat" / "lora_config.json")
    assert set(config) == COATI_LORA_FIELDS  # it is built with LoraConfig(**config)
    assert config["r"] == trial.config["rank"]
    assert config["lora_alpha"] == trial.config["alpha"]
    assert config["lora_initialization_method"] == "kaiming_uniform"
    assert config["target_modules"] == sorted(TARGET_MODULES[trial.config["targets"]])


def test_special_adapters_are_translated_as_far_as_the_scripts_go(
    run: Run, trial: TrialRecord, tmp_path: Path
) -> None:
    trial.config |= {"rank": 16, "alpha": 8.0, "use_rslora": True, "init": "pissa"}
    chat = export_preset(run, trial, tmp_path / "preset") / "colossalchat"
    assert read_json(chat / "lora_finetune.json")["lora_alpha"] == 32  # 8 / sqrt(16) = 32 / 16
    assert read_json(chat / "lora_config.json")["lora_initialization_method"] == "PiSSA"
    text = (chat / "README.md").read_text(encoding="utf-8")
    assert 'lora_alpha=8.0, lora_dropout=0.0, use_rslora=True, init_lora_weights="pissa"' in text


def test_the_readme_says_that_one_script_ignores_alpha(trial: TrialRecord, preset: Path) -> None:
    text = (preset / "colossalchat" / "README.md").read_text(encoding="utf-8")
    assert "ignores `lora_alpha` and `linear_lora_dropout`" in text
    assert "The script honours alpha" in text
    assert "no flag for target modules" in text
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("lora_config = "))
    made = eval(line.removeprefix("lora_config = "), {"LoraConfig": dict})
    assert made["r"] == trial.config["rank"]
    assert made["target_modules"] == sorted(TARGET_MODULES[trial.config["targets"]])


def test_an_empty_folder_may_be_filled(run: Run, trial: TrialRecord, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (export_preset(run, trial, tmp_path / "empty") / "preset.yaml").is_file()


def test_a_taken_destination_is_left_alone(run: Run, trial: TrialRecord, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("taken", "file"):
        with pytest.raises(InputError, match="exists already; give a new or an empty folder"):
            export_preset(run, trial, tmp_path / name)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_adapter_is_named_and_nothing_is_written(
    run: Run, trial: TrialRecord, tmp_path: Path, missing: str
) -> None:
    assert trial.checkpoint is not None
    (run.paths.root / trial.checkpoint / "adapter" / missing).unlink()
    with pytest.raises(InputError, match=f"{trial.trial_id}.*has no {missing}"):
        export_preset(run, trial, tmp_path / "new" / "preset")
    assert not (tmp_path / "new").exists()


def test_a_trial_without_checkpoint(run: Run, trial: TrialRecord, tmp_path: Path) -> None:
    trial.checkpoint = None
    with pytest.raises(InputError, match="no checkpoint in this run folder"):
        export_preset(run, trial, tmp_path / "preset")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"target_modules": 3}', '{"target_modules": null}'])
def test_a_malformed_adapter_config_is_an_input_error(
    run: Run, trial: TrialRecord, tmp_path: Path, text: str
) -> None:
    assert trial.checkpoint is not None
    (run.paths.root / trial.checkpoint / "adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match="not a PEFT adapter configuration"):
        export_preset(run, trial, tmp_path / "preset")


def test_disk_trouble_leaves_nothing_behind(
    run: Run, trial: TrialRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "presets").mkdir()
    monkeypatch.setattr("shutil.copyfile", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        export_preset(run, trial, tmp_path / "presets" / "mine")
    assert list((tmp_path / "presets").iterdir()) == []


def test_a_relative_run_folder_and_destination(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_run(os.path.relpath(run_dir, tmp_path))
    trial = front_members(run.front)[0]
    assert (export_preset(run, trial, "out") / "adapter_model.safetensors").is_file()
