"""From raw sources to a clean train and validation set: `prepare(options_of(source, out))`."""

from megacode.data.prepare.options import PrepareOptions, options_from, options_of
from megacode.data.prepare.report import PrepareReport, render_report
from megacode.data.prepare.run import Submitted, prepare

__all__ = ["PrepareOptions", "PrepareReport", "Submitted", "options_from", "options_of", "prepare", "render_report"]
