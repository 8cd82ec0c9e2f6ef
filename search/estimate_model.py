"""Which model an estimate is of: a size, a model folder, or what the hub's cache on this machine holds."""

import math
from dataclasses import dataclass
from pathlib import Path

from search.errors import InputError
from search.sizes import Profile, load_profile, size_names
from trainables.base_models import read_architecture
from trainables.model_folder import read_config
from trainables.model_sources import looks_like_hub_id
from trainables.parameter_counts import count_parameters
from trainables.settings import Architecture


@dataclass(frozen=True)
class KnownModel:
    """A model's shape, and the profile whose settings stand where none are given: its own, or the nearest size's."""

    name: str
    architecture: Architecture
    profile: Profile


def find_model(source: str) -> KnownModel:
    """The model that ``source`` names. Needs its shape only, no weights, and downloads nothing.

    Raises:
        InputError: neither a size nor a model folder nor a cached hub model, or not a Llama.
    """
    if source in size_names():
        profile = load_profile(source)
        return KnownModel(source, profile.architecture, profile)
    path = Path(source).expanduser()
    if path.is_file():
        raise InputError(f"{source!r} is a file: give a size, a model folder or a hub id")
    folder = path if source.strip() and path.is_dir() else _cached_folder(source)
    if folder is None:
        raise InputError(
            f"unknown size {source!r}; there are: {', '.join(size_names())}; "
            "nor is it a model folder, or a model in the hub's cache on this machine"
        )
    architecture = _llama_shape(source, folder)
    return KnownModel(source, architecture, _nearest_profile(architecture))


def _cached_folder(source: str) -> Path | None:
    """Where the hub's cache keeps the model's configuration; None where it does not."""
    if not looks_like_hub_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def _llama_shape(source: str, folder: Path) -> Architecture:
    kind = read_config(folder).get("model_type")
    if kind != "llama":
        raise InputError(
            f"model {source!r} is not a Llama but of model_type {kind!r}: memory is predicted of Llama models only"
        )
    return read_architecture(folder)


def _nearest_profile(architecture: Architecture) -> Profile:
    """The size nearest in parameters, by their ratio."""
    count = count_parameters(architecture)
    profiles = [load_profile(name) for name in size_names()]
    return min(profiles, key=lambda profile: abs(math.log(profile.parameters / count)))
