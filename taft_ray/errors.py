"""Every error the package raises on purpose: one class for each reaction of the caller.

A message names what was wrong, what was got, and the fix. ``exit_code`` is what the command line exits with.
"""


class TaftError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(TaftError):
    """The request itself is wrong (a bad option, an impossible number): change the call."""

    exit_code = 2


class UnsupportedModel(UsageError):
    """The model cannot be linearised, or timm does not know it: choose another model."""


class BudgetExceeded(UsageError):
    """The fit would spend more privacy than the run's budget allows: forget by drop, or make a run with a larger budget."""


class WeightsMismatch(TaftError):
    """The weights do not fit the model: the message lists the keys that are missing, unexpected or of another shape."""


class DeltaMismatch(TaftError):
    """Two deltas, or a delta and a model, do not have the same names and shapes."""


class FixedPointOverflow(TaftError):
    """A value does not fit the fixed-point grid: nothing was added to any sum."""


class DataError(TaftError):
    """The data cannot be used as it is: missing, unreadable, or with labels outside the classes."""


class TooManyRejected(DataError):
    """More rows were rejected than ``--max-rejected`` allows: mend the data or raise the limit."""


class IntegrityError(TaftError):
    """Bytes in storage do not have the digest that was recorded for them: truncated or tampered."""


class SpecMismatch(UsageError):
    """The run folder was made with another spec: the message names the fields that differ."""


class AnswerMismatch(TaftError):
    """JSON that is not the answer it is read as: another command's, or another version's."""


class UnknownSample(UsageError):
    """A sample id that is not in this run's manifest, nor among its forgotten ones."""


class StorageError(TaftError):
    """Storage cannot be reached, refuses access or is full: mend it and run the same command again."""


class ObjectMissing(StorageError):
    """The object is not there."""


class CommitConflict(StorageError):
    """Another writer took this ledger number: read again, then retry."""


class CommitUnknown(StorageError):
    """It is not known whether the commit happened: read the head before retrying."""


class Unregistered(StorageError):
    """The run's ledger cannot be written: make it writable, or write a file that says that it is not registered."""


class NoDevice(TaftError):
    """A GPU was asked for and none is free."""


class PublicationHeld(TaftError):
    """The run's release gate holds back a newer model: wait, or publish it all the same with ``--now``."""
