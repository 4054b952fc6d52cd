"""Audit: a trained head looks at labelled rows and ranks those whose label it disputes."""

from tasks.audit.step import VERSION, AuditInputs, audit, check_taxonomy, read_audit

__all__ = ["VERSION", "AuditInputs", "audit", "check_taxonomy", "read_audit"]
