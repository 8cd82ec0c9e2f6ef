import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.records import Event
from analysis.report import render_report, write_report
from analysis.report_table import table_rows
from analysis.report_view import commands, selection_text, sweep_rows
from analysis.results import Run, load_run, read_events
from tests.analysis.synthetic import write_events, write_run

EVIL = "</script><script>alert('x')</script>\"'&"


class Outline(HTMLParser):
    """The tags with their attributes, and the text outside of scripts and styles, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def outline(run: Run) -> Outline:
    return Outline(render_report(run))


def embedded_figures(page: Outline) -> dict[str, Any]:
    match = re.search(r"const FIGURES = (.*);\n", page.scripts[1])
    assert match is not None
    figures: dict[str, Any] = json.loads(match[1])
    return figures


def test_the_report_holds_everything(run: Run) -> None:
    page = outline(run)
    for text in (
        "demo", "smollm2-135m", "11 stopped", "1 failed", "1 infeasible", "claimed: 90 %", "claimed: one third",
        "claimed: 2 to 3 ×", "builtin:python-docstrings", "5,200 train, 64 validation, 64 test", "128 tokens",
        "evaluated after 16, 48, 144", "2.00 GiB", "CPU, 2 cores", "colossalai 0.5.0", "23 evaluations",
        "lorafront sweep smollm2-135m --name demo", "--pick knee --to", "loss became NaN at example 24",
    ):  # fmt: skip
        assert text in page.text, text
    for trial in run.front.trials:
        assert trial.trial_id in page.text
    assert list(embedded_figures(page)) == [
        "importance",
        "learning_curves",
        "parallel_coordinates",
        "quality_memory",
    ]
    assert run.front.headline is not None
    assert f"Recommended: {run.front.headline.trial_id}" in page.text


def test_nothing_is_loaded_from_elsewhere(run: Run) -> None:
    page = outline(run)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes), (tag, attributes)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = re.search(r"<style>(.*?)</style>", render_report(run), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_charts_are_never_offered_for_upload(run: Run) -> None:
    assert "showSendToCloud: false" in outline(run).scripts[1]


def test_plotly_is_inlined_once(run: Run) -> None:
    page = outline(run)
    assert len(page.scripts) == 2
    assert render_report(run).count("plotly.js v") == 1


def evil_run(tmp_path: Path) -> Run:
    """A run in which every text that a user or an error can bring in tries to break out."""
    run_dir = write_run(tmp_path / "run")
    events = read_events(run_dir / "trials.jsonl")
    for event in events:
        if event.sweep is not None:
            event.sweep = {
                key: EVIL if isinstance(value, str) else value for key, value in event.sweep.items()
            }
            event.sweep |= {"data": {"source": EVIL, "fingerprint": EVIL}, "versions": {EVIL: EVIL}}
        if event.trial is not None:
            event.trial.trial_id = f"{event.trial.trial_id}{EVIL}"
            event.trial.config = {
                **event.trial.config,
                "targets": f"{event.trial.seed % 3}{EVIL}",
                EVIL: EVIL,
            }
            event.trial.error = EVIL
    write_events(run_dir, events)
    config = yaml.safe_load((run_dir / "sweep.yaml").read_text())
    config |= {"base_model": EVIL, "space": {EVIL: EVIL, "rank": [EVIL]}, "scheduler": EVIL}
    config["data"] |= {"source": EVIL, "seq_len": EVIL}
    (run_dir / "sweep.yaml").write_text(yaml.safe_dump(config))
    return load_run(run_dir)


def test_what_users_name_cannot_break_out(tmp_path: Path) -> None:
    run = evil_run(tmp_path)
    page = outline(run)
    assert len(page.scripts) == 2
    assert "alert('x')</script>" in page.text  # shown as text
    # Inside the data, `<` is only ever an escape, so nothing can end the script element.
    data = re.search(r"const FIGURES = (.*);\n", page.scripts[1])
    assert data is not None
    assert "<" not in data[1]
    figures = embedded_figures(page)
    for key, value in walk(figures):
        if isinstance(value, str) and key in {"text", "hovertext", "name", "label", "ticktext"}:
            assert "<script" not in value, (key, value)


def walk(node: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [pair for name, child in node.items() for pair in walk(child, name)]
    if isinstance(node, list):
        return [pair for child in node for pair in walk(child, key)]
    return [(key, node)]


@pytest.mark.parametrize(("num_trials", "baseline"), [(0, False), (0, True), (1, False), (2, True)])
def test_any_number_of_trials(tmp_path: Path, num_trials: int, baseline: bool) -> None:
    run = load_run(write_run(tmp_path / "run", num_trials=num_trials, baseline=baseline))
    page = outline(run)
    assert f"{num_trials} LoRA trial" in page.text
    assert ("Nothing to recommend yet" in page.text) == (num_trials == 0)
    assert ("Full fine-tuning was not run" in page.text) == (num_trials > 0 and not baseline)


def test_a_run_without_facts_still_gives_a_report(run_dir: Path) -> None:
    (run_dir / "sweep.yaml").write_text("name: bare\n")
    events = [event for event in read_events(run_dir / "trials.jsonl") if event.trial is not None]
    write_events(run_dir, events)
    run = load_run(run_dir)
    page = outline(run)
    assert "sweep not finished" in page.text
    assert "untouched model was not evaluated" in page.text
    assert all(text for _, text in sweep_rows(run))
    assert ("Run this sweep again", f"lorafront sweep --config {run_dir / 'sweep.yaml'}") in commands(run)


def test_a_failed_baseline_says_why(run_dir: Path) -> None:
    events = read_events(run_dir / "trials.jsonl")
    for event in events:
        if event.trial is not None and event.trial.kind == "full":
            event.trial.status, event.trial.error = "failed", "ran out of memory"
    write_events(run_dir, events)
    assert "baseline is failed (ran out of memory)" in outline(load_run(run_dir)).text


def test_the_table_sorts_by_numbers_and_shows_full_fine_tuning_last(run: Run) -> None:
    rows = table_rows(run)
    assert len(rows) == 17
    assert [row.marks for row in rows].count("★") == 1
    full = rows[-1]
    assert full.marks == "◆"
    assert [cell.text for cell in full.cells[:5]] == ["–", "–", "every weight", "0.0001", "4"]
    loss = rows[0].cells[5]
    assert loss.sort == rows[0].trial.eval_loss
    assert "±" in loss.text


def test_selection_says_from_how_many(run: Run, run_dir: Path) -> None:
    text = selection_text(run)
    assert "of 16 LoRA trials" in text
    assert "64 validation examples" in text
    assert "search never saw its loss is" in text
    for trial in run.front.trials:
        trial.test_loss = None
    assert "was not measured" in selection_text(run)


def test_commands_are_quoted_for_a_shell(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "my runs" / "a b"))
    export = dict(commands(run))["Export the recommended config"]
    assert f"'{tmp_path}/my runs/a b'" in export


def test_writing_is_atomic_and_a_missing_folder_is_an_os_error(run: Run, tmp_path: Path) -> None:
    write_report(run, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(OSError, match="No such file"):
        write_report(run, tmp_path / "missing" / "report.html")


def test_events_with_a_new_kind_of_fact_are_passed_through(run: Run) -> None:
    event = Event(event="sweep", time="t", sweep={"new": [1, {"x": None}]})
    assert Event.model_validate_json(event.model_dump_json()) == event


def test_the_page_of_very_many_trials_shows_the_best_and_says_what_it_leaves_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {row.trial.trial_id for row in table_rows(run)}
    members = {trial.trial_id for trial in run.front.trials if trial.on_front}
    monkeypatch.setattr("analysis.report_table.MOST_ROWS", len(members))
    monkeypatch.setattr("analysis.figure_curves._MOST_CURVES", 1)
    monkeypatch.setattr("analysis.figure_settings._MOST_LINES", 2)
    shown = {row.trial.trial_id for row in table_rows(run)} - {"baseline"}
    assert shown == members < whole
    page = render_report(run)
    assert (
        f"{len(run.front.trials) - len(members)} more, those that come last by status and loss, are in"
        in page
    )
    figures = embedded_figures(outline(run))
    (lines,) = [trace for trace in figures["parallel_coordinates"]["data"] if trace["type"] == "parcoords"]
    assert all(len(axis["values"]) <= 2 for axis in lines["dimensions"])
