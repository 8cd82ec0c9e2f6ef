"""Model sizes: one YAML profile per size with what is particular to it, and rules for the rest (`defaults`)."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from search.errors import InputError
from search.sizes.defaults import derive
from search.sizes.rules import SECTIONS, Derived, nested
from search.yaml_io import parse_yaml
from trainables.settings import Architecture, DataSettings, ExecutionSettings, Settings


def _from_model_config(value: Any) -> Any:
    """A profile gives the shape as the model's ``config.json`` does."""
    if isinstance(value, Mapping) and "model_type" in value and "num_hidden_layers" in value:
        return Architecture.from_model_config(dict(value))
    return value


class Model(Settings):
    """What only a size's file can say.

    ``hardware`` says in words what the profile is meant for: the machine, then what else is needed after a
    semicolon. ``parameters`` counts each weight once, tied ones too. ``architecture`` is that part of the model's
    ``config.json`` on which its shape depends.
    """

    size: str
    title: str
    hardware: str
    base_model: str
    base_model_sha256: str | None = None
    parameters: int = Field(gt=0)
    architecture: Annotated[Architecture, BeforeValidator(_from_model_config)]


class Profile(Model):
    """What lorafront knows about a model size before it has seen your data.

    The fields beyond the model's are defaults of the sweep's configuration of the same name; ``recommended`` is the
    point of the space that is tried first.
    """

    trials: int = Field(gt=0)
    max_examples: int = Field(gt=0)
    reduction_factor: int = Field(ge=2)
    rung_count: int = Field(ge=1)
    confirm: int = Field(0, ge=0)
    data: DataSettings
    execution: ExecutionSettings
    baseline: dict[str, Any]
    space: dict[str, Any]
    recommended: dict[str, Any]

    def sweep_defaults(self) -> dict[str, Any]:
        """The profile as the lowest layer of a sweep's configuration."""
        return self.model_dump(mode="json", exclude={"title", "hardware", "parameters"}, exclude_unset=True)


@cache
def size_names() -> tuple[str, ...]:
    """The names of all sizes, smallest model first."""
    files = [file.name for file in resources.files(__name__).iterdir()]
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    return tuple(sorted(names, key=lambda name: (load_profile(name).parameters, name)))


def profile_text(size: str) -> str:
    """The YAML of a size's file as it ships, comments included.

    Raises:
        InputError: there is no such size; the message lists those there are.
    """
    file = resources.files(__name__) / f"{size}.yaml"
    if not size.replace("-", "").replace(".", "").isalnum() or not file.is_file():
        raise InputError(f"unknown size {size!r}; there are: {', '.join(size_names())}")
    return file.read_text(encoding="utf-8")


def derived_settings(size: str) -> list[Derived]:
    """What the size's file leaves to the rules.

    Raises:
        InputError: there is no such size, or its file is broken.
    """
    return _read(size, profile_text(size))[1]


def load_profile(size: str) -> Profile:
    """A size's profile: its file, and the rules' settings where it says nothing.

    Raises:
        InputError: there is no such size, or its file is broken.
    """
    return _profile(size, profile_text(size))


@cache
def _profile(size: str, text: str) -> Profile:
    content, derived = _read(size, text)
    merged = nested(derived)
    for name, value in content.items():
        merged[name] = {**merged.get(name, {}), **value} if name in SECTIONS else value
    try:
        return Profile.model_validate(merged)
    except ValidationError as error:
        raise _broken(size, error) from error


def _read(size: str, text: str) -> tuple[dict[str, Any], list[Derived]]:
    content = parse_yaml(text, f"sizes/{size}.yaml")
    try:
        model = Model.model_validate({name: content[name] for name in Model.model_fields if name in content})
    except ValidationError as error:
        raise _broken(size, error) from error
    return content, derive(model.parameters, model.architecture, content)


def _broken(size: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    return InputError(f"sizes/{size}.yaml: {first['loc']}: {first['msg']}")
