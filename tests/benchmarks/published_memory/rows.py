"""The published figures as data: what was run, what it printed, and what nobody wrote down about it."""

from dataclasses import dataclass
from typing import Literal

from search.units import GIB
from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import ExecutionSettings

LLAMA_MODULES = names_of(LLAMA_PATHS)

MIB = 2**20
GB = 10**9

COLOSSALCHAT = "https://github.com/hpcaitech/ColossalAI/blob/main/applications/ColossalChat/examples/README.md#hardware-requirements"
TORCHTUNE = "https://github.com/pytorch/torchtune/blob/main/docs/source/tutorials/lora_finetune.rst"
TORCHTUNE_QLORA = "https://github.com/pytorch/torchtune/blob/main/docs/source/tutorials/qlora_finetune.rst"
PEFT = "https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA"

Loop = Literal["ours", "plain bf16", "coati, head only"]
Loss = Literal["ours", "transformers 4.45", "transformers 4.46"]


@dataclass(frozen=True)
class PublishedRow:
    """One published peak, and the prediction to set beside it.

    ``loop`` is ours, or what the published run did otherwise: full fine-tuning with weights, gradients and Adam's states
    all in bf16 (PEFT's script), or ColossalChat's LoRA, in which only the head's adapter got a gradient. ``loss`` is
    ours, or that of a version of transformers, which keeps more. ``examples`` are one device's per forward pass.
    ``known`` says whether nothing that moves the peak by over a percent or two is left open; ``unknown`` is what is.
    """

    name: str
    source: str
    published_bytes: int
    size: str
    seq_len: int
    examples: int
    execution: ExecutionSettings
    targets: tuple[str, ...] = ()
    rank: int = 0
    loop: Loop = "ours"
    loss: Loss = "ours"
    known: bool = False
    unknown: str = ""

    @property
    def kind(self) -> Literal["lora", "full"]:
        """Full fine-tuning has no rank."""
        return "lora" if self.rank else "full"


_QV = ("q_proj", "v_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_DUMMY = "transformers' version; the dummy data's padding (all 2,048 positions assumed full)"
_OFFLOAD = (
    "which code ran: with 4 devices bf16 weights (12.6 GiB) and the logits of 8 x 2048 positions (7.8 GiB) alone "
    "are more than was published; " + _DUMMY
)
_COATI = "which modules had adapters (all linear ones assumed, as the code does by default); " + _DUMMY


def _colossalchat(
    devices: int, examples: int, mib: float, *, plugin: str = "zero2", rank: int = 0, loop: Loop = "ours"
) -> PublishedRow:
    lora = f"LoRA r{rank}, {'as its code ran' if loop != 'ours' else 'had all adapters trained'}"
    return PublishedRow(
        name=f"ColossalChat 7B, {devices} x H800, {plugin}, {examples} x 2048, {lora if rank else 'full'}",
        source=COLOSSALCHAT,
        published_bytes=round(mib * MIB),
        size="llama2-7b",
        seq_len=2048,
        examples=examples,
        execution=ExecutionSettings(
            plugin=plugin,  # type: ignore[arg-type]
            devices_per_trial=devices,
            micro_batch_size=examples,
            gradient_checkpointing=True,
            reentrant_checkpointing=True,
        ),
        targets=LLAMA_MODULES if rank else (),
        rank=rank,
        loop=loop,
        loss="transformers 4.45",
        known=plugin == "zero2" and (not rank or loop != "ours"),
        unknown=_OFFLOAD if plugin == "zero2-offload" else _COATI if rank else _DUMMY,
    )


def _torchtune(
    name: str, targets: tuple[str, ...], rank: int, gb: float, source: str, quantize: bool = False
) -> PublishedRow:
    return PublishedRow(
        name=f"torchtune Llama-2-7B, batch 2, {name} r{rank}{', 4-bit' if quantize else ''}",
        source=source,
        published_bytes=round(gb * GB),
        size="llama2-7b",
        seq_len=512,
        examples=2,
        # bf16 adapters, as torchtune has them: of our plugins those of ZeRO.
        execution=ExecutionSettings(
            plugin="zero1", micro_batch_size=2, gradient_checkpointing=True, quantize=quantize
        ),
        targets=targets,
        rank=rank,
        unknown=(
            "the peak may be the model's loading, after which 9.13 GB were reserved; " if quantize else ""
        )
        + "memory reserved, not allocated; the longest pair of Alpaca's examples (512 tokens assumed, unbounded "
        "in the configuration); all layers includes the head, which our target sets leave out; torch's version",
    )


def _peft(name: str, targets: tuple[str, ...], rank: int, gib: float, loop: Loop = "ours") -> PublishedRow:
    return PublishedRow(
        name=f"PEFT MetaMathQA Llama-3.2-3B, batch 4, {name}{f' r{rank}' if rank else ''}",
        source=PEFT,
        published_bytes=round(gib * GIB),
        size="llama3.2-3b",
        seq_len=768,
        examples=4,
        execution=ExecutionSettings(micro_batch_size=4),
        targets=targets,
        rank=rank,
        loop=loop,
        loss="transformers 4.46",
        unknown="memory reserved, not allocated; the longest batch (4 x 768 tokens assumed, the limit); "
        "evaluation's generation may have set it",
    )


ROWS: tuple[PublishedRow, ...] = (
    _colossalchat(4, 8, 43446.31),
    _colossalchat(4, 16, 58082.30),
    _colossalchat(2, 4, 72390.95),
    _colossalchat(4, 8, 19412.77, plugin="zero2-offload"),
    _colossalchat(2, 4, 22457.98, plugin="zero2-offload"),
    _colossalchat(4, 8, 21167.73, rank=8, loop="coati, head only"),
    _colossalchat(4, 8, 21344.17, rank=32, loop="coati, head only"),
    _colossalchat(4, 8, 21167.73, rank=8),
    _colossalchat(4, 8, 21344.17, rank=32),
    _torchtune("q,v", _QV, 8, 15.57, TORCHTUNE),
    _torchtune("all layers", LLAMA_MODULES, 8, 15.87, TORCHTUNE),
    _torchtune("q,v", _QV, 64, 15.86, TORCHTUNE),
    _torchtune("all layers", LLAMA_MODULES, 64, 17.04, TORCHTUNE),
    _torchtune("q,v", _QV, 8, 9.29, TORCHTUNE_QLORA, quantize=True),
    _peft("q,v", _QV, 32, 20.76),
    _peft("q,v", _QV, 64, 21.00),
    _peft("MLP", _MLP, 10, 23.00),
    _peft("full", (), 0, 36.20, loop="plain bf16"),
)
