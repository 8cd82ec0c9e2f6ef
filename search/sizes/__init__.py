"""Model sizes: one YAML profile per size, with the source of every number in its comments."""

from importlib import resources
from typing import Any

from pydantic import Field, ValidationError

from search.errors import InputError
from search.yaml_io import parse_yaml
from trainables.settings import Architecture, DataSettings, ExecutionSettings, Settings


class Profile(Settings):
    """What lorafront knows about a model size before it has seen your data.

    ``hardware`` says in words what the profile is meant for: the machine, then what else is needed after a
    semicolon. The other fields are defaults of the sweep's configuration of the same name; ``recommended`` is
    the point of the space that is tried first.
    """

    size: str
    title: str
    hardware: str
    base_model: str
    base_model_sha256: str | None = None
    parameters: int = Field(gt=0)
    architecture: Architecture
    trials: int = Field(gt=0)
    max_examples: int = Field(gt=0)
    reduction_factor: int = Field(3, ge=2)
    rung_count: int = Field(3, ge=1)
    confirm: int = Field(0, ge=0)
    data: DataSettings
    execution: ExecutionSettings
    baseline: dict[str, Any]
    space: dict[str, Any]
    recommended: dict[str, Any]

    def sweep_defaults(self) -> dict[str, Any]:
        """The profile as the lowest layer of a sweep's configuration."""
        return self.model_dump(mode="json", exclude={"title", "hardware", "parameters"}, exclude_unset=True)


def size_names() -> list[str]:
    """The names of all sizes, smallest model first."""
    files = [file.name for file in resources.files(__name__).iterdir()]
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    return sorted(names, key=lambda name: load_profile(name).parameters)


def profile_text(size: str) -> str:
    """The YAML of a size's profile as it ships, comments included.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    file = resources.files(__name__) / f"{size}.yaml"
    if not size.replace("-", "").replace(".", "").isalnum() or not file.is_file():
        raise InputError(f"unknown size {size!r}; there are: {', '.join(size_names())}")
    return file.read_text(encoding="utf-8")


def load_profile(size: str) -> Profile:
    """A size's profile.

    Raises:
        InputError: there is no such size, or its file is broken.
    """
    try:
        return Profile.model_validate(parse_yaml(profile_text(size), f"sizes/{size}.yaml"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"sizes/{size}.yaml: {first['loc']}: {first['msg']}") from error
