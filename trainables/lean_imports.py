"""Imported before transformers' models and PEFT: leaves out what they import at once and no trial uses.

transformers imports scikit-learn for one function of assisted generation: a tenth of a worker's imports.
"""

import transformers.utils
from transformers.utils import import_utils

import_utils.is_sklearn_available = transformers.utils.is_sklearn_available = lambda: False
