"""Which of a worker's errors end a run at once: those that no other try can mend."""

from typing import Any

from ray.train import UserCallback


class Verdict(UserCallback):
    """Raises a worker's error in Ray Train's controller, which then tries no second time."""

    def __init__(self, final: tuple[type[Exception], ...]) -> None:
        self.final = final

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called with the error of every failed rank, before Ray decides on another try."""
        for failure in worker_exceptions.values():
            inner = getattr(failure, "_base_exc", failure)
            if isinstance(inner, self.final):
                raise inner
