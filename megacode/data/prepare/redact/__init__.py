"""Personal data and secrets out of a document: `redact(content)`, and `redact_document(document)` for all its parts."""

from megacode.data.prepare.redact.replace import Redacted, redact, redact_document

__all__ = ["Redacted", "redact", "redact_document"]
