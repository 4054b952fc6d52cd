"""Every error that a user may see: one message with the value, the remedy and where to look."""


class PsavlmError(Exception):
    """The parent of all errors that psavlm raises on purpose."""

    exit_code = 1


class ConfigError(PsavlmError):
    """A parameter, preset or file of settings is wrong."""

    exit_code = 2


class DataError(PsavlmError):
    """The data given cannot be used as asked."""

    exit_code = 2


class StorageError(PsavlmError):
    """The store's root cannot be used, or what lies in it is damaged."""

    exit_code = 2


class OutageError(StorageError):
    """A service that keeps something of ours does not answer: the same may work later."""


class TrainingError(PsavlmError):
    """A training run stopped: a non-finite loss, or workers that kept dying."""


class StoppedError(TrainingError):
    """The command was ended from outside, and the same command goes on from what is stored."""


class ServerError(PsavlmError):
    """A server of `psavlm up` did not come up, or refuses what it is asked."""
