"""Reports as HTML files that need nothing but themselves, and their figures for papers."""

from specdecodes.benchmark.report.grid_page import write_grid_report
from specdecodes.benchmark.report.page import write_report
from specdecodes.benchmark.report.plates import write_plates

__all__ = ["write_grid_report", "write_plates", "write_report"]
