import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.config import resolve_config
from search.errors import InputError
from search.run_folder import new_run_folder, remove_leftovers
from search.run_lock import LOCK_NAME, locked

HOLD = """
import sys
from pathlib import Path
from search.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another lorafront process"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with locked(tmp_path):  # what the dead process left is no obstacle
        pass


def test_a_new_run_folder_is_locked_and_whole(tmp_path: Path) -> None:
    config = resolve_config(None)
    with new_run_folder(config, tmp_path / "deep" / "run") as paths:
        assert paths.sweep_yaml.is_file()
        with pytest.raises(InputError, match="another lorafront process"), locked(paths.root):
            pass
    with pytest.raises(InputError, match="exists already"), new_run_folder(config, paths.root):
        pass


def test_a_run_folder_that_cannot_be_filled_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.run_folder.write_atomically", full)
    with (
        pytest.raises(InputError, match="No space left"),
        new_run_folder(resolve_config(None), tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_at_once_is_no_obstacle_but_anything_else_is(tmp_path: Path) -> None:
    config, run = resolve_config(None), tmp_path / "run"
    run.mkdir()
    (run / LOCK_NAME).touch()
    (run / ".sweep.yaml.x.tmp").write_text("half")
    with new_run_folder(config, run) as paths:
        assert paths.sweep_yaml.is_file()
    for taken in (run, run / LOCK_NAME):
        with pytest.raises(InputError, match=r"exists|cannot create"), new_run_folder(config, taken):
            pass


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / ".front.json.a.tmp", tmp_path / ".front.json.b.tmp", tmp_path / "front.json"
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((new, other))
