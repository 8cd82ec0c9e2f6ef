"""Which families the installed transformers knows, read from its own tables without importing it.

Importing transformers takes one to three seconds, and a refusal is to come in less than one.
"""

import ast
import runpy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_CAUSAL_TABLE = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


@lru_cache
def known_families() -> frozenset[str]:
    """Every ``model_type`` that transformers has a configuration of, but for some parts of audio models.

    Takes 60 ms with `causal_classes`; a second and more where transformers' files are otherwise.
    """
    try:
        table = runpy.run_path(str(_auto_folder() / "auto_mappings.py"))["CONFIG_MAPPING_NAMES"]
        return frozenset(table) | causal_classes().keys()
    except (OSError, KeyError, SyntaxError, ImportError):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        return frozenset(CONFIG_MAPPING_NAMES)


@lru_cache
def causal_classes() -> dict[str, str]:
    """The class that transformers' ``AutoModelForCausalLM`` makes, by ``model_type``."""
    try:
        tree = ast.parse((_auto_folder() / "modeling_auto.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _CAUSAL_TABLE:
                assert isinstance(node.value, ast.Call), "an OrderedDict of pairs"
                return dict(ast.literal_eval(node.value.args[0]))
        raise KeyError(_CAUSAL_TABLE)
    except (OSError, KeyError, SyntaxError, ValueError, AssertionError, IndexError):
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _auto_folder() -> Path:
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        raise ImportError("transformers is not installed")
    return Path(spec.origin).parent / "models" / "auto"
