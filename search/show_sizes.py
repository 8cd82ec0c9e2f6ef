"""What `lorafront sizes` prints: all sizes as a table, or one size's profile with its comments."""

import textwrap
from typing import TYPE_CHECKING

import yaml

from search.sizes import Profile, derived_settings, load_profile, profile_text, size_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_sizes(console: "Console") -> None:
    """Print the table of all sizes."""
    console.print(sizes_table())


def print_profile(size: str, console: "Console") -> None:
    """Print a size's file and what the rules make of it: in colours on a terminal, as plain YAML into a pipe or file.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    text = profile_text(size) + rules_text(size)
    if not console.is_terminal:
        console.file.write(text)
        return
    from rich.syntax import Syntax

    # The terminal's own colours and background: readable on light and dark ones.
    console.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def rules_text(size: str) -> str:
    """YAML of the settings that the size's file leaves to the rules, each under its reason.

    Raises:
        InputError: there is no such size.
    """
    lines = [_comment(_RULES)]
    for name, value, reason in derived_settings(size):
        text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
        value_text = text.removesuffix("...\n").rstrip()  # YAML's end of a document of one scalar
        lines += [_comment(reason), f"{name}: {value_text}"]
    return "\n".join(lines) + "\n"


_RULES = (
    "The hardware named above holds every config of the space by prediction, with a tenth for fragmentation and 1 GiB "
    "for CUDA. What the lines above leave open follows from parameters and shape "
    "(search/sizes/defaults.py); --set takes these names, such as --set space.rank=[4,8]."
)


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# "))


def sizes_table() -> "Table":
    """All sizes, smallest model first, each in one line of at most 80 columns.

    Tokens are the sequence length. Licence and text part, which most need not see, are marks behind the name.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=_CAPTION, caption_justify="left", padding=0)
    for heading in ("size", "weights", "model", "one trial needs", "tokens", "trials"):
        is_number = heading in ("weights", "tokens", "trials")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for name in size_names():
        table.add_row(*_row(load_profile(name)))
    return table


_CAPTION = """\
* accept the licence on the model's page   + save the text part first
lorafront sizes SIZE prints a profile, with the reason for every number"""


def _row(profile: Profile) -> tuple[str, ...]:
    machine, _, rest = profile.hardware.partition(";")
    marks = ("*" if "gated" in rest else "") + ("+" if "text part" in rest else "")
    return (
        profile.size,
        format_count(profile.parameters),
        f"{profile.title.removesuffix(', text part')} {marks}".rstrip(),
        machine,
        str(profile.data.seq_len),
        str(profile.trials),
    )


def format_count(parameters: int) -> str:
    """A number of parameters the way people name models.

    >>> format_count(1235814400), format_count(134515008)
    ('1.24 B', '135 M')
    """
    return f"{parameters / 1e9:#.3g} B" if parameters >= 999.5e6 else f"{parameters / 1e6:.0f} M"
