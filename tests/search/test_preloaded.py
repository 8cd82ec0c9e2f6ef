import subprocess
import sys

from search.ray_session import _PRELOADED

PROGRAM = """
import importlib, sys
from search.environment import quiet_libraries
quiet_libraries()
for name in {names}: importlib.import_module(name)
print(*(name for name in ("torch", "peft", "colossalai", "sklearn", "torch._inductor.compile_fx") if name in sys.modules))
"""


def test_workers_import_what_trials_need_and_not_what_none_uses() -> None:
    program = PROGRAM.format(names=_PRELOADED)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "peft", "colossalai"]
