"""How an estimate looks in the terminal."""

from typing import TYPE_CHECKING

from search.device_memory import FRAGMENTATION, RESERVE_BYTES
from search.units import GIB, format_memory

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from search.estimate_result import Breakdown, EstimateResult, Fit

_BAR_WIDTH = 14
_BASES = {None: "", "nf4": ", 4-bit base", "int8": ", 8-bit base"}


def print_estimate(result: "EstimateResult", console: "Console") -> None:
    """Print the breakdown with a bar per category, the ratio, and what fits if a device was given."""
    console.print(_line(_settings_text(result), "bold"))
    trains = f"trains {_count(result.lora.trainable_parameters)} of {_count(result.parameters)} parameters"
    console.print(_line(f"{trains}; {_devices_text(result)}"))
    if result.defaults_of != result.model:
        console.print(_line(f"settings that were not given are those of size {result.defaults_of}"))
    console.print(_breakdown_table(result))
    for name, side in (("LoRA", result.lora), ("full fine-tuning", result.full)):
        console.print(_line(f"{name} {_peak_text(side)}"))
    console.print(_line(f"LoRA needs {result.ratio:.1%} of full fine-tuning's peak memory."))
    for note in result.notes:
        console.print(_line(f"note: {note}", "yellow"))
    if result.fit is not None:
        _print_fit(result, result.fit, console)


def _settings_text(result: "EstimateResult") -> str:
    config, execution = result.config, result.execution
    parts = [
        f"{result.model}: LoRA rank {config.rank} on {config.targets}".removeprefix(": "),
        f"{result.micro_batch} x {result.seq_len} tokens at a time",
        f"{execution.dtype}{_BASES[execution.base_precision]}",
        execution.plugin,
        "gradient checkpointing" if execution.gradient_checkpointing else "",
        "DoRA" if config.use_dora else "",
        f"dropout {config.dropout:g}" if config.dropout else "",
        execution.optimizer if execution.optimizer != "adamw" else "",
        f"loss at {result.supervised_fraction:.0%} of the positions"
        if result.supervised_fraction < 1
        else "",
    ]
    return ", ".join(part for part in parts if part)


def _devices_text(result: "EstimateResult") -> str:
    batch = f"the batch of {result.batch_size} examples"
    if result.devices == 1:
        return f"one device takes {batch}"
    return f"{result.devices} devices share {batch}, and all figures are of one of them"


def _peak_text(side: "Breakdown") -> str:
    """When the peak is reached, and how that is known."""
    if side.operator is None:
        return f"peaks at the {side.moment} (closed form)"
    return f"peaks at the {side.moment}, after {side.operator} (traced)"


def _line(text: str, style: str = "") -> "object":
    """Text that Rich prints as it is: names from users may hold its markup."""
    from rich.text import Text

    return Text(text, style=style)


def _count(number: int) -> str:
    """A number of parameters for people.

    >>> _count(134_515_008)
    '134.5M'
    """
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f}{unit}" if unit == "B" else f"{number / size:.1f}{unit}"
    return str(number)


def _breakdown_table(result: "EstimateResult") -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(show_footer=True)
    table.add_column("peak memory", "total")
    sides = (("LoRA", result.lora), ("full fine-tuning", result.full))
    for title, side in sides:
        table.add_column(title, format_memory(side.peak_bytes), justify="right")
        table.add_column("", f"at the {side.moment}", width=_BAR_WIDTH)
    longest = max(max(side.categories.values()) for _, side in sides)
    for name in result.lora.categories:
        row: list[str | ProgressBar] = [name.replace("_", " ")]
        for _, side in sides:
            size = side.categories[name]
            row += [format_memory(size), ProgressBar(total=longest, completed=size, width=_BAR_WIDTH)]
        table.add_row(*row)
    return table


def _print_fit(result: "EstimateResult", fit: "Fit", console: "Console") -> None:
    def verdict(fits: bool, needed_bytes: int) -> str:
        return f"{'fits' if fits else 'does not fit'} (needs {format_memory(needed_bytes)})"

    console.print(
        _line(
            f"On {format_memory(fit.device_memory_bytes)}: LoRA {verdict(fit.fits, fit.needed_bytes)}, "
            f"full fine-tuning {verdict(fit.full_fits, fit.full_needed_bytes)}.",
            "green" if fit.fits else "red",
        )
    )
    console.print(
        _line(
            f"Needed is the peak x {FRAGMENTATION:.2f} for the allocator's fragmentation, plus "
            f"{format_memory(RESERVE_BYTES)} for CUDA and its libraries."
        )
    )
    batch = (
        "none" if fit.largest_micro_batch is None else f"{fit.largest_micro_batch} x {result.seq_len} tokens"
    )
    length = "none" if fit.largest_micro_batch is None else "not looked for"
    if fit.largest_seq_len is not None:
        length = f"{result.micro_batch} x {fit.largest_seq_len} tokens"
    where = "" if result.devices == 1 else " each device"
    console.print(_line(f"Largest batch that fits{where} at a time: {batch}; largest sequence: {length}."))
    console.print(_grid_table(fit))


def _grid_table(fit: "Fit") -> "Table":
    from rich.table import Table
    from rich.text import Text

    sets = list(dict.fromkeys(cell.targets for cell in fit.grid))
    cells = {(cell.rank, cell.targets): cell for cell in fit.grid}
    table = Table(title="predicted peak in GiB by rank and target set", title_justify="left")
    table.add_column("rank", justify="right")
    for name in sets:
        table.add_column(Text(name), justify="right", overflow="fold")
    for rank in dict.fromkeys(cell.rank for cell in fit.grid):
        row = [cells[rank, name] for name in sets]
        table.add_row(
            str(rank),
            *(
                Text(
                    f"{c.peak_bytes / GIB:.2f} {'fits' if c.fits else 'no'}",
                    "green" if c.fits else "red",
                )
                for c in row
            ),
        )
    return table
