"""Lets `lorafront`'s own workers note their phases: Python imports this at its start where its folder is on the path.

So the command that is measured is the plain `lorafront`. Methods are wrapped when their module is imported; one that
is not there any more is left out with a warning, and its time then counts as waiting.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import sys

# Module -> (class or None, function, phase while it runs, phase after it; None: the phase before it).
HOOKS = {
    "trainables.worker": [
        ("Worker", "begin", "load", None),
        ("Worker", "load", "load", None),
        (None, "evaluate", "evaluate", None),
    ],
    "trainables.training": [("Training", "train_to_next_rung", "train", None)],
    "trainables.trial": [
        ("LoraTrial", "setup", "load", "end"),
        ("LoraTrial", "step", "load", "report"),
        ("LoraTrial", "save_checkpoint", "report", "report"),
        ("LoraTrial", "reset_config", "end", "end"),
    ],
}
_now = ["end"]


def _wrapped(function, during, after):
    from tests.benchmarks.rivals.clock import mark

    @functools.wraps(function)
    def timed(*arguments, **named):
        before, _now[0] = _now[0], during
        mark(during)
        try:
            return function(*arguments, **named)
        finally:
            _now[0] = after or before
            mark(_now[0])

    return timed


class _Loader(importlib.abc.Loader):
    def __init__(self, inner, hooks):
        self._inner, self._hooks = inner, hooks

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        for owner_name, name, during, after in self._hooks:
            owner = getattr(module, owner_name, None) if owner_name else module
            if not hasattr(owner, name):
                print(f"benchmark hook: no {module.__name__}.{owner_name}.{name} any more", file=sys.stderr)
                continue
            setattr(owner, name, _wrapped(getattr(owner, name), during, after))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, HOOKS[name])
        return spec


if os.environ.get("BENCHMARK_MARKS"):
    sys.meta_path.insert(0, _Finder())
