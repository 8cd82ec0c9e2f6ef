"""What `lorafront sizes` prints."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from search.errors import InputError
from search.show_sizes import format_count, print_profile, print_sizes, sizes_table
from search.sizes import load_profile, profile_text, size_names


def printed(width: int, *, terminal: bool = False, size: str | None = None) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None
    )
    if size:
        print_profile(size, console)
    else:
        print_sizes(console)
    return file.getvalue()


def test_the_table_has_a_line_for_every_size_in_100_columns() -> None:
    text = printed(100)
    assert sizes_table().row_count == len(size_names())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for size in size_names():
        profile = load_profile(size)
        for cell in (profile.hardware.partition(";")[0], str(profile.data.seq_len), str(profile.trials)):
            assert cell in rows[size]
    assert "8.03 B Meta-Llama-3-8B-Instruct" in rows["llama3-8b"]
    assert "288/864/2592" in rows["llama3-8b"]
    assert "zero2 x 1" in rows["llama3-8b"]
    assert "135 M SmolLM2-135M-Instruct " in rows["smollm2-135m"]


@pytest.mark.parametrize("size", size_names())
def test_a_profile_goes_into_a_pipe_byte_for_byte(size: str) -> None:
    assert printed(40, size=size) == profile_text(size)


def test_a_profile_is_coloured_on_a_terminal() -> None:
    text = printed(120, terminal=True, size="llama3-8b")
    assert "\x1b[" in text
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in text
    assert "# the model's config.json" in text


def test_an_unknown_size_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="unknown size 'gpt'; there are: smollm2-135m, "):
        printed(100, size="gpt")


@pytest.mark.parametrize(
    ("parameters", "text"), [(134_515_008, "135 M"), (10**9, "1.00 B"), (13_015_864_320, "13.0 B")]
)
def test_format_count(parameters: int, text: str) -> None:
    assert format_count(parameters) == text


def test_the_table_needs_no_heavy_import() -> None:
    heavy = ("torch", "transformers", "ray", "mlflow", "optuna", "colossalai", "plotly", "matplotlib")
    code = (
        "import sys; from rich.console import Console; from search.show_sizes import print_sizes;"
        f"print_sizes(Console()); sys.exit(any(name in sys.modules for name in {heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
