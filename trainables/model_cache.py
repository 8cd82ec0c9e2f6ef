"""Converted models on disk: found in milliseconds, written by one process at a time, whole or not at all.

``ROOT/models/SHA256-vN/`` is the model converted from the file with that checksum by converter version N.
``ROOT/sources/KEY.json`` remembers which one a source turned out to be, so that it is fetched and hashed only
once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from search.errors import BrokenEnvironmentError, InputError
from trainables.gguf import CONVERTER_VERSION, check_gguf_magic, convert_gguf_apart
from trainables.model_folder import check_model_folder

Say = Callable[[str], None]
_UNFINISHED = ".unfinished-"


def cache_root() -> Path:
    """``$LORAFRONT_CACHE``, else ``$XDG_CACHE_HOME/lorafront``, else ``~/.cache/lorafront``."""
    if own := os.environ.get("LORAFRONT_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "lorafront"
    return Path.home() / ".cache" / "lorafront"


class ModelCache:
    """The cache below ``root``, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._models = root / "models"
        self._sources = root / "sources"

    def model(self, source: str, sha256: str | None, fetch: Callable[[Path], Path], say: Say) -> Path:
        """The converted model of ``source``, from the cache or made now.

        Args:
            source: identifies the GGUF file; the same text must always mean the same bytes.
            sha256: what the file must hash to, or None for no check.
            fetch: puts the file into the scratch folder it is given, or finds it elsewhere; returns its path.
            say: told about every slow step.

        Raises:
            InputError: wrong checksum, or the file cannot be converted.
            BrokenEnvironmentError: the cache cannot be written.
        """
        if folder := self._find(source, sha256):
            return folder
        try:
            with self._only_writer(say) as scratch:
                # Another process may have finished the same model while this one waited.
                return self._find(source, sha256) or self._make(source, sha256, fetch, scratch, say)
        except OSError as error:
            raise BrokenEnvironmentError(
                f"cannot fill the model cache {self._root}: {error}; free space or set LORAFRONT_CACHE"
            ) from error

    def _find(self, source: str, sha256: str | None) -> Path | None:
        """The folder of a source seen before, or None when there is no whole one."""
        try:
            found = json.loads(self._marker(source).read_text(encoding="utf-8"))["sha256"]
            folder = self._folder(found)
            check_model_folder(folder)
        except (OSError, ValueError, KeyError, TypeError):  # never seen, or damaged since: make it again
            return None
        _check_sha256(source, found, sha256)
        return folder

    def _make(
        self, source: str, sha256: str | None, fetch: Callable[[Path], Path], scratch: Path, say: Say
    ) -> Path:
        file = fetch(scratch)
        check_gguf_magic(file)
        found = _file_sha256(file)
        _check_sha256(source, found, sha256)
        folder = self._folder(found)
        if not _is_whole(folder):
            say(f"converting {file.name} to safetensors (once)")
            converted = scratch / "converted"
            convert_gguf_apart(file, converted)
            check_model_folder(converted)
            if folder.exists():  # damaged: out of the way, deleted with the scratch folder
                os.replace(folder, scratch / "damaged")
            os.replace(converted, folder)
        new_marker = scratch / "marker.json"
        new_marker.write_text(json.dumps({"source": source, "sha256": found}), encoding="utf-8")
        os.replace(new_marker, self._marker(source))
        return folder

    @contextmanager
    def _only_writer(self, say: Say) -> Iterator[Path]:
        """A scratch folder on the cache's own disk; what killed writers left behind is removed."""
        for folder in (self._models, self._sources):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._root / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("waiting for another process that is filling the model cache")
            lock.acquire()
        try:
            for left_over in self._models.glob(_UNFINISHED + "*"):
                shutil.rmtree(left_over, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self._models) as scratch:
                yield Path(scratch)
        finally:
            lock.release()

    def _folder(self, sha256: str) -> Path:
        return self._models / f"{sha256}-v{CONVERTER_VERSION}"

    def _marker(self, source: str) -> Path:
        return self._sources / f"{hashlib.sha256(source.encode()).hexdigest()[:32]}.json"


def _is_whole(folder: Path) -> bool:
    with suppress(InputError):
        check_model_folder(folder)
        return True
    return False


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_sha256(source: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise InputError(f"{source} has the wrong checksum: sha256 is {found}, expected {expected.lower()}")
