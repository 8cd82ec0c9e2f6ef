"""How much memory a card has, and how much of it a predicted peak needs."""

from search.errors import InputError
from search.units import GIB, parse_memory

# GiB that PyTorch reports as a card's total capacity ("GPU 0 has a total capacity of ..." in its
# out-of-memory messages), the smallest seen per card, rounded down: a little less than the name says. ECC as
# shipped.
_CARD_GIB = {
    "t4": 14.5,
    "v100-16g": 15.7,
    "a10": 22.0,
    "a10g": 22.0,
    "l4": 22.0,
    "rtx3090": 23.5,
    "rtx4090": 23.5,
    "rtx5090": 31.3,
    "v100-32g": 31.7,
    "a100-40g": 39.3,
    "l40s": 44.3,
    "a6000": 47.4,
    "a100-80g": 79.1,
    "h100": 79.1,
    "h800": 79.1,
    "h200": 139.0,
}

# A number without a unit is bytes; below this it was meant otherwise.
_LEAST_BARE_BYTES = 2**20

# What the allocator needs beyond the live bytes: the least capacity that fits was 5-9 % above them for 7-8B
# models, 7-16 % for smaller ones (shared design notes, "Not in the trace").
FRAGMENTATION = 1.10
# CUDA context, NCCL buffers and cuBLAS workspaces (same notes); generous for one process.
RESERVE_BYTES = GIB


def device_memory_bytes(text: str) -> int:
    """Bytes of a memory size such as ``24GiB``, or of a card by its name, such as ``rtx4090``.

    Raises:
        InputError: neither a size nor a known card (the message lists the cards), or a small number without a unit.

    >>> device_memory_bytes("24GiB") == 24 * GIB
    True
    """
    name = text.strip().lower().replace("_", "-").replace(" ", "")
    if name in _CARD_GIB:
        return round(_CARD_GIB[name] * GIB)
    if name.replace(".", "", 1).isdigit() and 0 < float(name) < _LEAST_BARE_BYTES:
        raise InputError(f"device memory {text!r} has no unit: for {name} GiB give {name}GiB")
    try:
        return parse_memory(text)
    except InputError:
        cards = ", ".join(_CARD_GIB)
        raise InputError(
            f"device memory {text!r} is neither a size such as 24GiB nor a known card: {cards}"
        ) from None


def required_bytes(peak_bytes: int) -> int:
    """The least device memory in which a training with this predicted peak is expected to run."""
    return round(peak_bytes * FRAGMENTATION) + RESERVE_BYTES
