"""Choosing how to execute a trial, and what the preset and the report say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.execution import best_under, executed_as, own_variant, variant_text
from analysis.export import export_preset
from analysis.front import build_front, front_members
from analysis.presets import choose, pick
from analysis.records import ExecutionVariant, Front, TrialRecord
from analysis.report import render_report
from analysis.report_execution import execution_groups, plugins_differ
from analysis.results import Run, load_run, read_events
from search.config import resolve_config
from search.errors import InputError
from tests.analysis.synthetic import write_events

GIB = 2**30


def variant(micro_batch: int, gib: float, speed: float, checkpointing: bool = False) -> ExecutionVariant:
    return ExecutionVariant(
        micro_batch_size=micro_batch,
        gradient_checkpointing=checkpointing,
        plugin="ddp",
        predicted_memory_bytes=int(gib * GIB),
        relative_speed=speed,
        is_own=speed == 1.0,
    )


def trial(trial_id: str, loss: float, gib: float, *others: ExecutionVariant) -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id,
        status="completed",
        config={"batch_size": 8},
        eval_loss=loss,
        peak_memory_bytes=int(gib * GIB),
        execution_variants=[variant(8, gib, 1.0), *others],
    )


LARGE = trial(
    "large", 3.0, 20, variant(4, 14, 0.9), variant(8, 11, 0.7, checkpointing=True),
    variant(1, 7, 0.5, checkpointing=True),
)  # fmt: skip
SMALL = trial("small", 3.5, 10, variant(1, 6.0001, 0.6))
MEMBERS = [SMALL, LARGE]


def front_of(*trials: TrialRecord) -> Front:
    point = {"eval_loss": 9.0, "peak_memory_bytes": 99.0 * GIB}
    return build_front(
        name="n", size="s", created="c", finished=True, trials=trials, base=None, reference_point=point
    )


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (24, ("large", 8, False)),
        (20, ("large", 8, False)),  # exactly fits
        (19.9, ("large", 4, False)),  # the fastest that fits, not the smallest
        (12, ("large", 8, True)),
        (10, ("large", 1, True)),  # better quality at half the speed, though another fits as it was measured
        (6.5, ("small", 1, False)),
    ],
)
def test_the_best_quality_that_fits_in_any_way(gib: float, expected: tuple[str, int, bool]) -> None:
    choice = best_under(MEMBERS, int(gib * GIB))
    assert choice.variant is not None
    chosen = choice.trial.trial_id, choice.variant.micro_batch_size, choice.variant.gradient_checkpointing
    assert chosen == expected


def test_the_choice_says_why() -> None:
    own = best_under(MEMBERS, 24 * GIB).reason
    assert own == "executed as it was measured: micro-batch 8, no checkpointing, ddp"
    other = best_under(MEMBERS, 10 * GIB).reason
    for part in (
        "needs 20.00 GiB as it was measured (micro-batch 8", "micro-batch 1, gradient checkpointing",
        "fits 10.00 GiB", "predicted 7.00 GiB", "0.50 times the speed (modelled)",
        "the best that fits as it was measured is small, loss 3.500",
    ):  # fmt: skip
        assert part in other, part
    assert "fits as it was measured is" not in best_under(MEMBERS, 9 * GIB).reason


def test_where_nothing_fits_the_least_variant_is_named_with_what_to_type() -> None:
    with pytest.raises(InputError) as caught:
        best_under(MEMBERS, 5 * GIB)
    message = str(caught.value)
    assert "\n" not in message
    assert "5.00 GiB" in message
    assert "small with 6.00 GiB (micro-batch 1" in message
    assert message.endswith("--pick under:6145MiB")  # rounded up, so that it does fit
    assert choose(front_of(*MEMBERS), "under:6145MiB").trial.trial_id == "small"


def test_records_without_variants_are_chosen_by_what_was_measured() -> None:
    bare = [one.model_copy(update={"execution_variants": None}) for one in MEMBERS]
    choice = best_under(bare, 12 * GIB)
    assert (choice.trial.trial_id, choice.variant) == ("small", None)
    with pytest.raises(InputError, match=r"nearest is small with 10\.00 GiB: --pick small"):
        best_under(bare, 9 * GIB)


def test_other_picks_are_executed_as_they_were_measured() -> None:
    front = front_of(*MEMBERS)
    for how in ("quality", "large"):
        choice = choose(front, how)
        assert choice.trial.trial_id == "large"
        assert choice.variant == own_variant(choice.trial)
    assert pick(front, "under:12GiB").trial_id == "large"


@pytest.fixture
def rich_run(run_dir: Path) -> Run:
    """A run whose trials have variants: 8 at a time as measured, and less."""
    events = read_events(run_dir / "trials.jsonl")
    for event in events:
        record = event.trial
        if record is not None and record.status == "completed" and record.kind == "lora":
            gib = (record.peak_memory_bytes or 0) / GIB
            record.config["batch_size"] = 8
            record.execution_variants = [
                variant(8, gib, 1.0),
                variant(2, gib * 0.5, 0.8),
                variant(1, gib * 0.25, 0.4, checkpointing=True),
            ]
    write_events(run_dir, events)
    return load_run(run_dir)


def exported(run: Run, to: Path, number: int | None) -> tuple[Path, dict[str, Any]]:
    member = front_members(run.front)[0]
    chosen = None if number is None else (member.execution_variants or [])[number]
    folder = export_preset(run, member, to, chosen)
    content: dict[str, Any] = yaml.safe_load((folder / "preset.yaml").read_text(encoding="utf-8"))
    return folder, content


@pytest.mark.parametrize("number", [None, 0])
def test_a_preset_of_the_own_execution_leaves_the_sweeps_settings_alone(
    rich_run: Run, tmp_path: Path, number: int | None
) -> None:
    folder, content = exported(rich_run, tmp_path / "preset", number)
    assert content["sweep"]["execution"] == rich_run.config["execution"]
    assert content["execution"]["is_own"] is True
    assert [each["micro_batch_size"] for each in content["execution_variants"]] == [8, 2, 1]
    assert "is not what the trial was measured with" not in (folder / "preset.yaml").read_text()
    arguments = json.loads((folder / "colossalchat" / "lora_finetune.json").read_text())
    assert (arguments["batch_size"], arguments["accumulation_steps"]) == (8, 1)


def test_a_preset_of_another_execution_is_that_all_the_way_down(rich_run: Run, tmp_path: Path) -> None:
    folder, content = exported(rich_run, tmp_path / "preset", 2)
    assert content["execution"]["is_own"] is False
    assert content["execution"]["relative_speed"] == 0.4
    for section in (content["training"], content["sweep"]["execution"], content["execution"]):
        assert (section["micro_batch_size"], section["gradient_checkpointing"]) == (1, True)
    assert content["sweep"]["execution"]["dtype"] == "bf16"
    assert content["measured"]["peak_memory_bytes"] == front_members(rich_run.front)[0].peak_memory_bytes
    assert "is not what the trial was measured with" in (folder / "preset.yaml").read_text()
    config = resolve_config(None, config_file=folder / "preset.yaml")
    assert config.execution.micro_batch_size == 1
    assert config.execution.gradient_checkpointing
    chat = folder / "colossalchat"
    arguments = json.loads((chat / "lora_finetune.json").read_text())
    assert (arguments["batch_size"], arguments["accumulation_steps"]) == (1, 8)
    assert "counts on checkpointing" in (chat / "README.md").read_text()


def test_without_checkpointing_the_readme_does_not_ask_for_it(rich_run: Run, tmp_path: Path) -> None:
    folder, _ = exported(rich_run, tmp_path / "preset", 1)
    assert "counts on checkpointing" not in (folder / "colossalchat" / "README.md").read_text()


def test_the_plugin_follows_the_variant(rich_run: Run) -> None:
    offloaded = variant(1, 1, 0.5).model_copy(update={"plugin": "zero2-offload"})
    assert executed_as(rich_run, offloaded).section("execution")["plugin"] == "zero2-offload"
    assert rich_run.section("execution")["plugin"] == "ddp"


def test_old_records_export_as_before(run: Run, tmp_path: Path) -> None:
    _, content = exported(run, tmp_path / "preset", None)
    assert not {"execution", "execution_variants"} & set(content)


def test_the_report_lists_every_members_variants(rich_run: Run) -> None:
    groups = execution_groups(rich_run)
    assert [group.trial_id for group in groups] == [t.trial_id for t in front_members(rich_run.front)]
    first = groups[0].rows
    assert [row.micro_batch for row in first] == ["8 × 1", "2 × 4", "1 × 8"]
    assert [row.share for row in first] == ["100 %", "50 %", "25 %"]
    assert [row.memory.startswith("~") for row in first] == [False, True, True]
    assert [row.speed for row in first] == ["1.00 ×", "0.80 ×", "0.40 ×"]
    html = render_report(rich_run)
    assert "The same quality in other memory" in html
    assert html.count("as measured</td>") == len(groups)
    assert "<th>plugin</th>" not in html


def test_devices_share_the_batch_in_the_report(rich_run: Run) -> None:
    execution = rich_run.section("execution") | {"devices_per_trial": 2}
    shared = replace(rich_run, config={**rich_run.config, "execution": execution})
    assert [row.micro_batch for row in execution_groups(shared)[0].rows] == ["8 × 1", "2 × 2", "1 × 4"]


def test_plugins_get_a_column_where_they_differ(rich_run: Run) -> None:
    assert not plugins_differ(rich_run)
    (front_members(rich_run.front)[0].execution_variants or [])[2].plugin = "zero2-offload"
    assert plugins_differ(rich_run)
    html = render_report(rich_run)
    assert "<th>plugin</th>" in html
    assert "<td>zero2-offload</td>" in html


def test_a_run_without_variants_has_no_such_section(run: Run) -> None:
    assert execution_groups(run) == []
    assert "The same quality in other memory" not in render_report(run)


def test_a_variant_in_words() -> None:
    assert variant_text(variant(2, 1, 0.5)) == "micro-batch 2, no checkpointing, ddp"
