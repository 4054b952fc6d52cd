"""Probes of a trained stage 1: what its projector isolates, its tokens say, its head tells."""

from tasks.probe.step import ProbeInputs, probe

__all__ = ["ProbeInputs", "probe"]
