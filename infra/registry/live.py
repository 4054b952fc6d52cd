"""A run's figures in MLflow while it is still going on.

The run is the one that the finished model is registered with later: found by its key, it is
completed then.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infra.registry import runs
from infra.registry.connect import artifact_location, connected, exists, told, tracking_uri
from schemas.errors import StorageError

log = logging.getLogger(__name__)


@dataclass
class Live:
    """Figures of one run by step. A registry that is not there yet is not made for them.

    Attributes:
        key: the run's (see runs.Run).
        name: for people, where the run is new.
        uri: the registry's address.
    """

    key: str
    name: str
    uri: str = field(default_factory=tracking_uri)
    run: str = ""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log all figures at a step; a registry that cannot be reached is told once, as a warning.

        Figures are only looked at: they never end the work that they tell of.
        """
        if self.uri and exists(self.uri):
            self._try(lambda: self._log(figures, step))

    def end(self, *, well: bool) -> None:
        """Say that the run goes on no longer; nothing where none of its figures was logged."""
        if self.uri and self.run:
            status = "FINISHED" if well else "FAILED"
            self._try(lambda: connected(self.uri).set_terminated(self.run, status))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            with told(self.uri):
                call()
        except StorageError as error:
            log.warning("no live figures: %s", error)
            self.uri = ""

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        client = connected(self.uri)
        if not self.run:
            home = runs.experiment_id(client, artifact_location(self.uri))
            found = runs.find_run(client, self.key, experiment=home)
            tags = {runs.KEY: self.key}
            made = found or client.create_run(home, run_name=self.name, tags=tags)
            self.run = str(made.info.run_id)
            client.update_run(self.run, status="RUNNING")  # again, where it ended before its time
        now = int(time.time() * 1000)
        client.log_batch(
            self.run, metrics=[Metric(name, value, now, step) for name, value in figures.items()]
        )
