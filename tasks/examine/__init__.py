"""Examining a model: a benchmark's items asked, judged and counted."""

from tasks.examine.export import export_results
from tasks.examine.step import check_benchmark, examine, read_report, read_rows

__all__ = ["check_benchmark", "examine", "export_results", "read_report", "read_rows"]
