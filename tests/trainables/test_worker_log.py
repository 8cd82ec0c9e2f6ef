from pathlib import Path

from trainables.worker_log import CHARACTERS_PER_LINE, LINES, tail_of_file


def test_the_last_lines_become_one(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    text = (
        ":job_id:01\n:actor_name:GroupMember\n"
        + "".join(f"line {n}\n\n" for n in range(9))
        + "x" * 999
        + "\n"
    )
    log.write_text(text + "Extension modules: numpy, torch\n")
    tail = tail_of_file(str(log)).split(" | ")
    assert tail == [*(f"line {n}" for n in range(10 - LINES, 9)), "x" * CHARACTERS_PER_LINE]


def test_only_the_end_of_a_long_log_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_bytes(b"\xff\xfe\n" * 100_000 + b"the end\n")
    assert tail_of_file(str(log)).endswith(" | the end")


def test_no_log_is_no_error(tmp_path: Path) -> None:
    assert tail_of_file(str(tmp_path / "none")) == ""
    (tmp_path / "empty").write_text(":job_id:01\n")
    assert tail_of_file(str(tmp_path / "empty")) == ""
