"""The special tokens of the StarCoder families, in the order that gives them their ids (0, 1, 2, …).

Sources: StarCoder (arXiv 2305.06161) and StarCoder 2 (arXiv 2402.19173, Table 5), checked against the released
vocabularies. The first five are shared; every byte of FIM and packing depends on those five only.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX = "<fim_prefix>"
FIM_MIDDLE = "<fim_middle>"
FIM_SUFFIX = "<fim_suffix>"
FIM_PAD = "<fim_pad>"

REQUIRED = (END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD)

_STARCODER = """
<filename> <gh_stars> <issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code>
<jupyter_output> <empty_output> <commit_before> <commit_msg> <commit_after> <reponame>
"""
_STARCODER2 = """
<repo_name> <file_sep> <issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code>
<jupyter_output> <jupyter_script> <empty_output> <code_to_intermediate> <intermediate_to_code> <pr> <pr_status>
<pr_is_merged> <pr_base> <pr_file> <pr_base_code> <pr_diff> <pr_diff_hunk> <pr_comment> <pr_event_id> <pr_review>
<pr_review_state> <pr_review_comment> <pr_in_reply_to_review_id> <pr_in_reply_to_comment_id>
<pr_diff_hunk_comment_line> <NAME> <EMAIL> <KEY> <PASSWORD>
"""

SENTINELS = MappingProxyType(
    {
        "starcoder": REQUIRED + tuple(_STARCODER.split()),
        "starcoder2": REQUIRED + tuple(_STARCODER2.split()),
    }
)


def missing_sentinels(special: Collection[str]) -> list[str]:
    """Return the complaint, if there is one, that the special tokens `special` lack some that every run needs."""
    missing = [text for text in REQUIRED if text not in special]
    remedy = "add them or choose a StarCoder tokenizer"
    return [f"special tokens missing: {', '.join(missing)}; {remedy}"] if missing else []
