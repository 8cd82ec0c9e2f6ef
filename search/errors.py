"""The project's error family.

No class has a constructor of its own, so that every error pickles across Ray workers unchanged.
"""


class LorafrontError(Exception):
    """Base of every error that lorafront raises on purpose. Its text is one clear line for people."""


class InputError(LorafrontError, ValueError):
    """Something the user gave is wrong: the text says what, the value received and what is allowed."""


class BrokenEnvironmentError(LorafrontError, RuntimeError):
    """The machine or installation cannot run the job: the text names the likely cause."""


class UnfitNodeError(BrokenEnvironmentError):
    """A cluster's node lacks what the sweep's trials need: they go elsewhere."""


class StorageError(BrokenEnvironmentError):
    """A file cannot be written: the disk is full, read-only or gone. The sweep stops, and can be resumed."""


class TrialError(LorafrontError, RuntimeError):
    """One trial cannot go on (it diverged, a guard tripped, memory ran out). The sweep continues."""


class DivergedError(TrialError):
    """The loss of a trial became NaN or infinite."""


class OutOfMemoryError(TrialError):
    """The device ran out of memory during a trial: the config is infeasible, not broken."""


class WorkerLostError(TrialError):
    """A process of a trial on several devices died or hangs. The text ends with what it wrote last."""


class SweepError(LorafrontError, RuntimeError):
    """A sweep that started cannot go on, for instance because every trial fails for one reason."""
