"""From a folder of code to a clean train and validation set: `prepare(PrepareOptions(source, out))`."""

from megacode.data.prepare.report import PrepareReport, render_report
from megacode.data.prepare.run import PrepareOptions, prepare

__all__ = ["PrepareOptions", "PrepareReport", "prepare", "render_report"]
