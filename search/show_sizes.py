"""What `lorafront sizes` prints: all sizes as a table, or one size's profile with its comments."""

from typing import TYPE_CHECKING

from search.config import resolve_config
from search.sizes import Profile, load_profile, profile_text, size_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_sizes(console: "Console") -> None:
    """Print the table of all sizes."""
    console.print(sizes_table())


def print_profile(size: str, console: "Console") -> None:
    """Print a size's profile as it ships: in colours on a terminal, byte for byte into a pipe or file.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    text = profile_text(size)
    if not console.is_terminal:
        console.file.write(text)
        return
    from rich.syntax import Syntax

    # The terminal's own colours and background: readable on light and dark ones.
    console.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def sizes_table() -> "Table":
    """All sizes, smallest model first; fits 100 columns.

    Tokens are the sequence length; rungs are numbers of training examples; plugin x devices per trial.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="lorafront sizes SIZE prints a profile, with the reason for every number",
        padding=0,
    )
    for heading in ("size", "weights", "base model", "hardware", "tokens", "rungs", "plugin", "trials"):
        table.add_column(heading, justify="right" if heading in ("weights", "tokens", "trials") else "left")
    for name in size_names():
        table.add_row(*_row(load_profile(name)))
    return table


def _row(profile: Profile) -> tuple[str, ...]:
    execution = profile.execution
    return (
        profile.size,
        format_count(profile.parameters),
        _short_name(profile.base_model),
        profile.hardware.partition(";")[0],
        str(profile.data.seq_len),
        "/".join(map(str, resolve_config(profile.size).rungs)),
        f"{execution.plugin} x {execution.devices_per_trial}",
        str(profile.trials),
    )


def format_count(parameters: int) -> str:
    """A number of parameters the way people name models.

    >>> format_count(1235814400), format_count(134515008)
    ('1.24 B', '135 M')
    """
    return f"{parameters / 1e9:#.3g} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _short_name(base_model: str) -> str:
    """The last part of a base model's source, which is what people call the model."""
    return base_model.rpartition("/")[2].partition(".Q")[0]  # without a GGUF file's quantisation
