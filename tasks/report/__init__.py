"""Report: one self-contained page about a run, its Markdown, its plots and its numbers."""

from tasks.report.step import PageTables, ReportInputs, report, tables_for_page

__all__ = ["PageTables", "ReportInputs", "report", "tables_for_page"]
