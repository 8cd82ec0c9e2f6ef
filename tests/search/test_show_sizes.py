"""What `lorafront sizes` prints."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from search.config import resolve_config
from search.errors import InputError
from search.show_sizes import format_count, print_profile, print_sizes, sizes_table
from search.sizes import derived_settings, load_profile, profile_text, size_names
from search.sizes.rules import flatten
from search.yaml_io import parse_yaml


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


def test_the_table_has_a_line_for_every_size_in_80_columns() -> None:
    text = printed(80)
    assert sizes_table().row_count == len(size_names())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for size in size_names():
        profile = load_profile(size)
        title = profile.title.removesuffix(", text part")
        for cell in (
            title,
            profile.hardware.partition(";")[0],
            str(profile.data.seq_len),
            str(profile.trials),
        ):
            assert cell in rows[size]
        assert ("*" in rows[size]) == ("gated" in profile.hardware)
        assert ("+" in rows[size]) == ("text part" in profile.hardware)
    assert len([row for row in rows if row in size_names()]) == len(size_names())
    assert "8.03 B Llama 3 8B Instruct *" in rows["llama3-8b"]
    assert "135 M SmolLM2 135M Instruct " in rows["smollm2-135m"]


@pytest.mark.parametrize("size", size_names())
def test_a_pipe_gets_the_file_and_every_setting_that_follows_with_its_reason(size: str) -> None:
    text = printed(40, size=size)
    assert text.startswith(profile_text(size))
    content = flatten(parse_yaml(text, size))
    config = flatten(resolve_config(size).model_dump(mode="json"))
    for name, value, reason in derived_settings(size):
        assert content[name] == config[name] == value
        assert reason.split()[0] in text
    assert set(content) >= {f"recommended.{name}" for name in resolve_config(size).space}


def test_a_profile_is_coloured_on_a_terminal() -> None:
    text = printed(120, terminal=True, size="llama3-8b")
    assert "\x1b[" in text
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in text
    assert "# the model's config.json" in text


def test_an_unknown_size_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="unknown size 'gpt'; there are: smollm2-135m, "):
        printed(100, size="gpt")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [(134_515_008, "135 M"), (10**9, "1.00 B"), (999_885_952, "1.00 B"), (13_015_864_320, "13.0 B")],
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
