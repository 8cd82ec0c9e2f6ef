import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.device_memory import device_memory_bytes
from search.errors import InputError
from search.estimate import estimate
from search.estimate_fit import largest
from search.estimate_result import EstimateResult
from search.estimate_table import print_estimate
from search.units import GIB
from trainables.memory_model import predict_peak
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

LLAMA3_8B = Architecture(
    hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip
SETS = {
    "attention-qv": ("q_proj", "v_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


def estimate_8b(
    device_memory: int | None = None,
    seq_len: int = 1024,
    execution: dict[str, Any] | None = None,
    **config: Any,
) -> EstimateResult:
    return estimate(
        LLAMA3_8B,
        TrialConfig.model_validate({"rank": 16, "batch_size": 4} | config),
        ExecutionSettings.model_validate({"gradient_checkpointing": True} | (execution or {})),
        SETS,
        seq_len,
        device_memory,
        predict=predict_peak,
    )


def printed(result: EstimateResult) -> str:
    stream = io.StringIO()
    print_estimate(result, Console(file=stream, width=140))
    return stream.getvalue()


def test_lora_needs_a_fraction_of_full_fine_tuning() -> None:
    result = estimate_8b()
    assert result.ratio == result.lora.peak_bytes / result.full.peak_bytes
    assert result.ratio < 0.25
    assert sum(result.full.categories.values()) == result.full.peak_bytes
    assert result.full.trainable_parameters == result.parameters
    assert result.fit is None


def test_what_is_said_to_fit_does_and_one_more_does_not() -> None:
    capacity = 40 * GIB
    fit = estimate_8b(capacity).fit
    assert fit is not None
    assert fit.fits
    assert not fit.full_fits
    assert fit.largest_micro_batch is not None
    assert fit.largest_seq_len is not None

    def fits(**changes: Any) -> bool:
        other = estimate_8b(capacity, **changes).fit
        assert other is not None
        return other.fits

    assert fits(batch_size=fit.largest_micro_batch)
    assert not fits(batch_size=fit.largest_micro_batch + 1)
    assert fits(seq_len=fit.largest_seq_len)
    assert not fits(seq_len=fit.largest_seq_len + 1)


def test_needed_memory_is_the_peak_with_a_tenth_and_a_gibibyte_on_top() -> None:
    result = estimate_8b(40 * GIB)
    assert result.fit is not None
    assert result.fit.needed_bytes == round(1.1 * result.lora.peak_bytes) + GIB


def test_the_grid_has_every_set_at_every_rank_and_agrees_with_the_estimate() -> None:
    result = estimate_8b(26 * GIB, rank=24)
    assert result.fit is not None
    cells = {(cell.rank, cell.targets): cell for cell in result.fit.grid}
    assert set(cells) == {(rank, name) for rank in (4, 8, 16, 24, 32, 64, 128) for name in SETS}
    assert cells[24, "all-linear"].peak_bytes == result.lora.peak_bytes
    assert cells[24, "all-linear"].fits == result.fit.fits
    assert {cell.fits for cell in result.fit.grid} == {True, False}


def test_nothing_fits_a_tiny_device() -> None:
    fit = estimate_8b(2 * GIB).fit
    assert fit is not None
    assert (fit.fits, fit.largest_micro_batch, fit.largest_seq_len) == (False, None, None)


def test_json_round_trips() -> None:
    result = estimate_8b(24 * GIB)
    assert EstimateResult.model_validate_json(result.to_json()) == result
    assert json.loads(result.to_json())["lora"]["categories"]["base_weights"] == 2 * 8_030_261_248


def test_prints_categories_ratio_and_fit() -> None:
    text = printed(estimate_8b(device_memory_bytes("rtx4090")))
    for expected in (
        "optimizer state",
        "full fine-tuning",
        "14.96 GiB",
        "does not fit",
        "Largest batch",
        "128",
        "peaks at the loss (closed form)",
        "one device takes the batch of 4 examples",
    ):
        assert expected in text
    assert "Largest batch" not in printed(estimate_8b())


def test_names_with_markup_are_printed_as_they_are() -> None:
    sets = {"[red]mine": ("q_proj",)}
    config = TrialConfig(targets="[red]mine")
    result = estimate(
        LLAMA3_8B, config, ExecutionSettings(), sets, 128, GIB, predict=predict_peak, model="[b]model"
    )
    assert printed(result).count("[red]mine") == 2
    assert "[b]model" in printed(result)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", 24 * GIB),
        ("24 GB", 24 * 10**9),
        ("h100", round(79.1 * GIB)),
        ("A100-80G", round(79.1 * GIB)),
    ],
)
def test_device_memory_is_a_size_or_a_card(text: str, expected: int) -> None:
    assert device_memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["gtx9000", "", "-4GiB", "0", "24 parsecs"])
def test_unknown_device_memory_lists_the_cards(text: str) -> None:
    with pytest.raises(InputError, match=r"a100-40g.*h200"):
        device_memory_bytes(text)


def test_an_impossible_sequence_or_set_is_refused() -> None:
    with pytest.raises(InputError, match="sequence length 0"):
        estimate_8b(seq_len=0)
    with pytest.raises(
        InputError, match="unknown target set 'atention'; there are: attention-qv, all-linear"
    ):
        estimate_8b(targets="atention")


@pytest.mark.parametrize("changes", [{"seq_len": 2**24 + 1}, {"batch_size": 2**20 + 1}])
def test_what_is_beyond_all_measure_is_refused_before_it_is_traced(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is beyond all measure: give at most"):
        estimate_8b(**changes)


def test_devices_share_the_batch_once_and_figures_are_of_one() -> None:
    alone = estimate_8b(40 * GIB, batch_size=4)
    shared = estimate_8b(40 * GIB, batch_size=8, execution={"devices_per_trial": 2})
    assert (shared.devices, shared.batch_size, shared.micro_batch) == (2, 8, 4)
    assert shared.lora.peak_bytes == alone.lora.peak_bytes  # DDP shards nothing
    assert shared.fit == alone.fit
    assert "2 devices share the batch of 8 examples, and all figures are of one" in printed(shared)
    with pytest.raises(InputError, match="7 devices cannot share a batch of 8 examples"):
        estimate_8b(batch_size=8, execution={"devices_per_trial": 7})


def test_zero_shares_the_optimizer_among_devices() -> None:
    of_two = estimate_8b(batch_size=8, execution={"devices_per_trial": 2, "plugin": "zero2"})
    alone = estimate_8b(batch_size=4, execution={"plugin": "zero2"})
    assert of_two.full.categories["optimizer_state"] == alone.full.categories["optimizer_state"] / 2


def test_fewer_supervised_positions_need_less() -> None:
    half = estimate(
        LLAMA3_8B,
        TrialConfig(),
        ExecutionSettings(),
        SETS,
        1024,
        predict=predict_peak,
        supervised_fraction=0.5,
    )
    logits = estimate_8b(rank=8, execution={"gradient_checkpointing": False}).lora.categories[
        "logits_and_loss"
    ]
    assert half.lora.categories["logits_and_loss"] == pytest.approx(logits / 2, rel=0.002)
    assert "loss at 50% of the positions" in printed(half)


TINY = Architecture(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    vocab_size=512, tie_word_embeddings=True,
)  # fmt: skip


def test_the_point_asked_about_is_traced_and_the_closed_form_is_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path))
    result = estimate(TINY, TrialConfig(targets="attention-qv"), ExecutionSettings(), SETS, 48, GIB)
    for side in (result.lora, result.full):
        assert side.source == "trace"
        assert side.operator is not None
        assert side.operator.startswith("aten.")
        assert f"after {side.operator} (traced)" in printed(result)
    assert result.fit is not None
    (cell,) = (cell for cell in result.fit.grid if (cell.rank, cell.targets) == (8, "attention-qv"))
    assert cell.peak_bytes == pytest.approx(result.lora.peak_bytes, rel=0.005)
    assert not result.notes


def test_what_cannot_be_traced_is_said_and_predicted_in_closed_form() -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no such kernel\nat line 3")

    result = estimate(LLAMA3_8B, TrialConfig(), ExecutionSettings(), SETS, 128, predict=fails)
    assert {side.source for side in (result.lora, result.full)} == {"closed form"}
    assert result.notes == [
        f"{name} could not be traced, so its figures are from the closed form: no such kernel"
        for name in ("LoRA", "full fine-tuning")
    ]
    assert (
        result.lora.peak_bytes
        == estimate(
            LLAMA3_8B, TrialConfig(), ExecutionSettings(), SETS, 128, predict=predict_peak
        ).lora.peak_bytes
    )


def test_a_rank_that_some_modules_cannot_use_is_noted_and_one_that_none_can_refused() -> None:
    result = estimate_8b(rank=4096, targets="attention-qv")
    assert result.notes == ["rank 4096 is more than some modules can use: v_proj (1024)"]
    assert "note: rank 4096" in printed(result)
    with pytest.raises(
        InputError, match="rank 2000 is beyond every targeted module of this model: use at most 1024"
    ):
        estimate(LLAMA3_8B, TrialConfig(rank=2000, targets="k"), ExecutionSettings(), {"k": ("k_proj",)}, 128)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 99, 100])
def test_largest_finds_the_limit(limit: int) -> None:
    assert largest(lambda number: number <= limit, 1, 100) == limit
    assert largest(lambda number: number <= 200, 1, 100) == 100
    assert largest(lambda number: False, 1, 100) is None


def test_needs_no_torch() -> None:
    code = "import sys, search.estimate; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
