"""From the command line to a finished run folder: prepare, run, record, report."""

import shutil
import tempfile
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from rich.console import Console

from analysis.records import Event, Front, RunPaths
from search.cluster_check import check_run_folder
from search.config import SweepConfig, resolve_config
from search.credentials import NOTE, with_credentials, without_credentials
from search.environment import git_commit, software_versions
from search.errors import InputError, LorafrontError
from search.foreign_run import check_own, other_software
from search.interrupts import Interrupts
from search.plan import SweepPlan, make_plan
from search.progress import Progress
from search.ray_session import configure_ray, start_ray
from search.ray_watch import watch_ray
from search.run_folder import exists_already, is_taken, new_run_folder, remove_leftovers
from search.run_lock import locked
from search.storage_errors import storage_stop
from search.tracking import Tracker, local_tracking
from search.tracking_client import import_mlflow
from search.tracking_uri import tracking_problem
from search.units import counted
from search.warm_start import read_warm_start

CLOSING_SECONDS = 4.0  # for MLflow to take what is left, when a sweep ends before its time


def launch_sweep(config: SweepConfig, run_dir: Path, command: str, console: Console) -> bool:
    """Run a new sweep in a new folder. Returns whether it finished (False: interrupted, resumable).

    Raises:
        LorafrontError: bad input, a broken environment, or a sweep that cannot go on.
    """
    if is_taken(run_dir):
        raise exists_already(run_dir)
    _check_tracking(config, console)
    if config.tracking_uri and without_credentials(config.tracking_uri) != config.tracking_uri:
        console.print(NOTE, style="dim", highlight=False)
    plan = make_plan(config, lambda text: console.print(text, style="dim", highlight=False))
    if config.warm_start is not None:
        console.print(read_warm_start(plan).describe(), style="dim", highlight=False)
    with new_run_folder(plan.config, run_dir) as paths:
        return _run(plan, paths, command, console)


def resume_sweep(run_dir: Path, console: Console) -> bool:
    """Go on with an interrupted sweep.

    Raises:
        InputError: the folder is not a run folder, another process is working on it, or its base model or data changed.
    """
    paths = RunPaths(run_dir)
    if not paths.sweep_yaml.is_file():
        raise InputError(f"{run_dir} is not a run folder: it has no sweep.yaml")
    with locked(run_dir):
        earlier = check_own(paths)
        remove_leftovers(run_dir)
        config = resolve_config(None, config_file=paths.sweep_yaml)
        config = config.model_copy(update={"tracking_uri": with_credentials(config.tracking_uri)})
        _check_tracking(config, console)
        plan = make_plan(config, lambda text: console.print(text, style="dim", highlight=False))
        _check_same_data(run_dir, earlier, plan.data.fingerprint)
        _say_other_software(earlier, console)
        return _run(plan, paths, f"lorafront resume {run_dir}", console)


def _check_same_data(run_dir: Path, earlier: list[Event], fingerprint: str) -> None:
    from analysis.front import sweep_facts

    if sweep_facts(earlier).get("data", {}).get("fingerprint", fingerprint) != fingerprint:
        raise InputError(
            f"the data or tokenizer of {run_dir} changed since it was started: trials would not compare"
        )


def _say_other_software(earlier: list[Event], console: Console) -> None:
    from analysis.front import sweep_facts

    others = other_software(sweep_facts(earlier))
    if others is not None:
        text = f"note: so far it ran with {others}; from now on with what is installed here"
        console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _check_tracking(config: SweepConfig, console: Console) -> None:
    """Does the tracking server answer? The configuration says what it means if not."""
    problem = None if config.tracking_uri is None else tracking_problem(config.tracking_uri)
    if problem is None:
        return
    if config.tracking_outage == "stop":
        choice = "to start all the same and write everything later, set tracking_outage=later"
        raise InputError(f"{problem}; {choice} (--set, or in the run folder's sweep.yaml)")
    text = f"warning: {problem}; it is tried again while the sweep runs"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _run(plan: SweepPlan, paths: RunPaths, command: str, console: Console) -> bool:
    configure_ray(on_this_machine=plan.config.address is None)
    check_run_folder(plan, paths)
    with Interrupts(interrupted_text(paths.root), lambda: _show_cursor(console)) as interrupts:
        # Before anything else: meanwhile Ray's processes import what trials need, and this one what it needs itself.
        threading.Thread(target=_import_ahead, daemon=True).start()
        _start_ray(plan, interrupts)
        with watch_ray(lambda name: interrupts.end_at_once(_ray_is_gone(name, paths.root), code=2)):
            return _run_heeding(plan, paths, command, console, interrupts)


def _import_ahead() -> None:
    """Import large libraries, none of which has to do with Ray, while Ray's processes start."""
    with suppress(Exception):  # whoever needs it will say what is wrong with it
        import_module("pandas")
        import_module("optuna")
        import_mlflow()


def _start_ray(plan: SweepPlan, interrupts: Interrupts) -> None:
    try:
        start_ray(plan)
    except SystemExit:  # Ray takes SIGTERM while it starts
        interrupts.end_at_once()
    interrupts.take_over()


def _ray_is_gone(name: str, run_dir: Path) -> str:
    cause = "killed, or this machine ran out of memory"
    return f"error: Ray's process {name} is gone ({cause}); go on with: lorafront resume {run_dir}"


def interrupted_text(run_dir: Path) -> str:
    """How to go on after an interrupt."""
    return f"interrupted; go on with: lorafront resume {run_dir}"


def _show_cursor(console: Console) -> None:
    console.show_cursor(True)  # the live view hides it


def _run_heeding(
    plan: SweepPlan, paths: RunPaths, command: str, console: Console, interrupts: Interrupts
) -> bool:
    from search.sweep import Sweep

    config = plan.config
    sweep = Sweep(plan, paths, command, interrupts)
    tracker = _start_tracker(config, paths, sweep.run_key)
    for trial in sweep.journal.trials.values():
        tracker.update(trial)  # what an earlier launch could not write
    total = config.trials + config.baseline.enabled
    console.print(
        f"{total} trials on {plan.machine.description}, {plan.machine.concurrent} at a time; run folder {paths.root}",
        highlight=False,
    )

    def track(event: Event) -> None:
        if event.trial is not None:
            event.trial.mlflow_run_id = tracker.run_id(event.trial.trial_id)
            tracker.update(event.trial)

    sweep.journal.listeners.append(track)
    eta = 1 if config.scheduler == "fifo" else config.reduction_factor
    try:
        with Progress(console, total_trials=total, rungs=config.rungs, eta=eta) as progress:
            for trial in sweep.journal.trials.values():
                progress.remember(trial)
            sweep.journal.listeners.append(progress.listen)
            front = sweep.run(lambda front: _print_searched(front, config.confirm, console))
    except Exception as error:
        tracker.close(timeout_seconds=CLOSING_SECONDS)
        stop = storage_stop(error, paths.root)
        if stop is not None:
            raise stop from error
        raise
    finally:
        sweep.journal.close()
    problems = _break_off(front, tracker) if sweep.interrupted else _finish(front, paths, tracker)
    for problem in problems:
        console.print(f"warning: {problem}", highlight=False, markup=False, soft_wrap=True)
    if any(problem.startswith("MLflow") for problem in problems):
        text = f"What MLflow lacks is written by: lorafront resume {paths.root}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    _print_end(front, paths, console)
    return not sweep.interrupted


def _break_off(front: Front, tracker: Tracker) -> list[str]:
    """After an interrupt, quickly: no report, which `lorafront report` makes, and `resume` completes MLflow."""
    tracker.finish(front, files=[], member_folders={})
    return tracker.close(timeout_seconds=CLOSING_SECONDS)


def _start_tracker(config: SweepConfig, paths: RunPaths, run_key: str) -> Tracker:
    uri, artifacts = (config.tracking_uri, None) if config.tracking_uri else local_tracking(paths)
    tracker = Tracker(uri, artifact_root=artifacts, experiment="lorafront")
    tags = {"size": config.size, "seed": str(config.seed), "git_commit": git_commit() or "none"}
    tags |= {f"version.{name}": version for name, version in software_versions().items()}
    tracker.start_sweep(run_key, config.name, config.to_yaml_dict(), tags)
    return tracker


def _finish(front: Front, paths: RunPaths, tracker: Tracker) -> list[str]:
    """Write report and picture, hand everything to MLflow, and wait for it."""
    for trial in front.trials:
        trial.mlflow_run_id = trial.mlflow_run_id or tracker.run_id(trial.trial_id)
    problems = []
    try:
        write_outputs(front, paths)
    except Exception as error:  # the sweep's results are safe on disk: a report that fails must not hide them
        problems.append(f"the report could not be written: {error}")
    scratch = Path(tempfile.mkdtemp(prefix="lorafront-"))
    try:
        members = export_members(front, paths, scratch)
        files = [p for p in (paths.front_json, paths.report_html, paths.front_png) if p.exists()]
        tracker.finish(front, files, members)
        problems += tracker.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if any(trial.mlflow_run_id is None for trial in front.trials):  # of short trials MLflow heard only now
        problems += _fill_in_run_ids(front, paths, tracker)
    return problems


def _fill_in_run_ids(front: Front, paths: RunPaths, tracker: Tracker) -> list[str]:
    from analysis.front import write_front

    for trial in front.trials:
        trial.mlflow_run_id = trial.mlflow_run_id or tracker.run_id(trial.trial_id)
    try:
        write_front(front, paths.front_json)
    except OSError as error:
        return [f"front.json could not be written again: {error}"]
    return []


def export_members(front: Front, paths: RunPaths, folder: Path) -> dict[str, Path]:
    """The preset of every front member, for MLflow; members without a checkpoint are left out."""
    from analysis.export import export_preset
    from analysis.results import load_run

    run, members = load_run(paths.root), {}
    for number, trial in enumerate(front.trials):
        if trial.on_front:
            try:
                members[trial.trial_id] = export_preset(run, trial, folder / str(number))
            except (LorafrontError, OSError):
                continue
    return members


def write_outputs(front: Front, paths: RunPaths) -> None:
    """front.json, report.html and front.png of a run folder."""
    from analysis.figures import write_front_png
    from analysis.front import write_front
    from analysis.report import write_report
    from analysis.results import load_run

    write_front(front, paths.front_json)
    write_report(load_run(paths.root), paths.report_html)
    write_front_png(front, paths.front_png)


def print_front(front: Front, console: Console) -> None:
    """The front as a table, and the headline figures."""
    from analysis.tables import front_table

    console.print()
    console.print(front_table(front, console.width))
    print_headline(front, console)


def _print_searched(front: Front, seeds: int, console: Console) -> None:
    """What the search found, before the front's members are trained again."""
    print_front(front, console)
    members = counted(sum(trial.on_front for trial in front.trials), "front member")
    text = f"Now training {members} again with {counted(seeds, 'new seed')} each; Ctrl-C keeps this result."
    console.print(text, highlight=False, soft_wrap=True)
    console.print()


def print_headline(front: Front, console: Console) -> None:
    """What the front is worth: confirmed, and against full fine-tuning."""
    from analysis.confirmed import picked_from_text
    from analysis.headline import headline_lines
    from analysis.memory_error import prediction_text
    from analysis.tables import against_full_table, confirmation_table

    for table in (confirmation_table(front), against_full_table(front)):
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    lines = headline_lines(front)
    predicted = prediction_text(front)
    if predicted is not None:
        lines.append(predicted)
    if any(trial.on_front for trial in front.trials):
        lines.append(picked_from_text(front))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_end(front: Front, paths: RunPaths, console: Console) -> None:
    print_front(front, console)
    made = paths.report_html.exists()
    report = paths.report_html if made else f"lorafront report {paths.root} --format html"
    lines = [f"report      {report}", f"run folder  {paths.root}"]
    if any(trial.on_front for trial in front.trials):
        lines.append(f"next        lorafront export {paths.root} --pick knee --to preset")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
