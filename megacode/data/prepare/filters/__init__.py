"""Which documents are kept out, and why: the published rules of The Stack, by the text, the name and the licence."""

from megacode.data.prepare.filters.chain import why_dropped
from megacode.data.prepare.filters.characters import alphanumeric_characters
from megacode.data.prepare.filters.licences import PERMISSIVE, licence_allowed
from megacode.data.prepare.filters.rules import RULE_SETS, Rules

__all__ = ["PERMISSIVE", "RULE_SETS", "Rules", "alphanumeric_characters", "licence_allowed", "why_dropped"]
