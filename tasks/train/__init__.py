"""Training on Ray: the step, the loop of one worker, its data, its checkpoints."""

from tasks.train.job import Inputs
from tasks.train.step import train

__all__ = ["Inputs", "train"]
