"""ColossalAI's GPU plugins on real tensors of the CPU, by pretending that it is a CUDA device.

What ZeRO shards, exchanges and updates is then its own code's work. Not shown by it:
CUDA kernels, streams, NCCL, and memory.
"""

import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainables.data import PreparedData
from trainables.settings import TrialSpec


def _reduce_scatter(output: Tensor, input_: Tensor, group: Any = None) -> None:
    """Which gloo lacks."""
    dist.all_reduce(input_, group=group)
    output.copy_(input_.chunk(dist.get_world_size(group))[dist.get_rank(group)])


def pretend(monkeypatch: Any = None) -> None:
    """From now on, in this process (or as long as ``monkeypatch`` holds), the CPU is a CUDA device to ColossalAI."""
    import colossalai.accelerator.api

    from trainables.trace_world import _pretended_gpu

    change = monkeypatch.setattr if monkeypatch else setattr
    change(colossalai.accelerator.api, "_ACCELERATOR", _pretended_gpu())
    change(Tensor, "record_stream", lambda tensor, stream: None)
    change(dist, "reduce_scatter_tensor", _reduce_scatter)


def train_on_two(rank: int, data: PreparedData, specs: list[TrialSpec], port: int, folder: Path) -> None:
    """Process ``rank`` of two: trains every spec, and again from its checkpoint after the first rung.

    Writes into ``folder/results-RANK`` per spec the losses of the two rungs and that of the second one after restoring.
    """
    store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    pretend()
    from trainables.worker import Worker

    worker = Worker(data, threads=1)
    results: list[Any] = []
    for number, spec in enumerate(specs):
        checkpoint = folder / f"checkpoint-{number}"
        checkpoint.mkdir(exist_ok=True)
        try:
            worker.begin(spec)
            losses = [worker.train_rung()["eval_loss"]]
            worker.save(checkpoint)
            losses.append(worker.train_rung()["eval_loss"])
            dist.barrier()
            if spec.kind == "lora":
                worker.begin(spec)
                worker.load(checkpoint)
                losses.append(worker.train_rung()["eval_loss"])
            results.append(losses)
        except Exception:
            results.append(traceback.format_exc())
            break
    torch.save(results, folder / f"results-{rank}")
