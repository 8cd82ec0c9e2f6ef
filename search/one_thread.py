"""Linear algebra on small matrices in one thread: beside trials that keep all cores busy, threads wait for each other."""

from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def one_thread(module: str = "numpy") -> AbstractContextManager[object]:
    """Within it the BLAS libraries that ``module`` brings use one thread.

    For matrices of dozens of rows. Beside busy trials on two cores the Gaussian processes of one suggestion took 0.46 s
    of CPU time with two threads and 0.11 s with one.
    """
    return _libraries(module).limit(limits=1)


@cache
def _libraries(module: str) -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController

    import_module(module)  # only libraries that are loaded are found
    return ThreadpoolController().select(user_api="blas")
