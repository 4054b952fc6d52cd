"""Promotion: the gate decides on evidence; the registry follows the decisions."""

from tasks.promote.evidence import hiding
from tasks.promote.inputs import PromoteInputs
from tasks.promote.rollback import rollback
from tasks.promote.step import promote, register_candidate

__all__ = ["PromoteInputs", "hiding", "promote", "register_candidate", "rollback"]
