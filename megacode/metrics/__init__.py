"""What a run measured: rows in metrics.jsonl, lines on the screen, one HTML page. Knows no model and no torch.

The page is apart, in `megacode.metrics.report`, because its template engine takes a moment to import.
"""

from megacode.metrics.log import MetricsError, MetricsLog, read_rows
from megacode.metrics.screen import render_step, render_validation

__all__ = ["MetricsError", "MetricsLog", "read_rows", "render_step", "render_validation"]
