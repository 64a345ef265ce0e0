"""The report: rankings as one self-contained HTML page."""

from landbridge.report.page import MethodRow, Report, write_report

__all__ = ["MethodRow", "Report", "write_report"]
