"""Which model an estimate is of: a size, a model folder, a config.json, a GGUF file, or a cached hub model."""

import math
from dataclasses import dataclass
from pathlib import Path

from search.errors import InputError
from search.sizes import Profile, load_profile, size_names
from trainables.base_models import read_architecture, resolve_base_model
from trainables.model_checks import DEQUANTISED, check_causal_config, quantisation
from trainables.model_folder import read_config
from trainables.model_sources import looks_like_hub_id
from trainables.parameter_counts import count_parameters
from trainables.settings import Architecture


@dataclass(frozen=True)
class KnownModel:
    """A model's shape, and the profile whose settings stand where none are given: its own, or the nearest size's.

    ``notes`` say what a reader of the estimate has to know about the model.
    """

    name: str
    architecture: Architecture
    profile: Profile
    notes: tuple[str, ...] = ()


def find_model(source: str) -> KnownModel:
    """The model that ``source`` names. Needs its shape only, no weights, and downloads nothing from the hub.

    Raises:
        InputError: neither a size nor anything with a config.json nor a cached hub model, or a model that cannot be
            trained.
    """
    if source in size_names():
        profile = load_profile(source)
        return KnownModel(source, profile.architecture, profile)
    place = _place(source)
    config = read_config(place)
    check_causal_config(f"model {source!r}", config, may_lack_class=True)
    architecture = read_architecture(place)
    notes: tuple[str, ...] = ()
    if quantisation(config) == DEQUANTISED:
        notes = (f"{source} is stored in 4 bits ({DEQUANTISED}): counted as held in memory, in 16 bits",)
    return KnownModel(source, architecture, _nearest_profile(architecture), notes)


def _place(source: str) -> Path:
    """The folder with the model's config.json, or the file itself. A GGUF file is converted first, once."""
    path = Path(source).expanduser()
    if source.startswith("pypi:") or (path.suffix.lower() == ".gguf" and path.is_file()):
        return resolve_base_model(source)
    if path.is_file():
        if path.suffix.lower() == ".json":
            return path
        raise InputError(
            f"{source!r} is a file, but neither a config.json nor a .gguf file: give one of these, a size, a model "
            "folder or a hub id"
        )
    folder = path if source.strip() and path.is_dir() else _cached_folder(source)
    if folder is None:
        raise InputError(_unknown(source))
    return folder


def _unknown(source: str) -> str:
    if "/" in source and looks_like_hub_id(source):
        return (
            f"{source!r} is no folder, and as a hub id it is not in the hub's cache on this machine; estimate needs its "
            f"config.json only: hf download {source} config.json"
        )
    return (
        f"unknown size {source!r}; there are: {', '.join(size_names())}; "
        "nor is it a model folder, a config.json, or a model in the hub's cache on this machine"
    )


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


def _nearest_profile(architecture: Architecture) -> Profile:
    """The size nearest in parameters, by their ratio."""
    count = count_parameters(architecture)
    profiles = [load_profile(name) for name in size_names()]
    return min(profiles, key=lambda profile: abs(math.log(profile.parameters / count)))
