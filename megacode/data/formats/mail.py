"""What e-mail adds to a comment that was answered by mail: headers, quoted text and the notification's footer.

Line by line and in one pass, so a comment of any length takes time in proportion. Inside ``` fences, or four spaces
from the margin, a line that begins with > is code or a shell's prompt and stays.
"""

from __future__ import annotations

import re

_FENCES = ("```", "~~~")
_WROTE = re.compile(r"On .{6,200} wrote:|.{0,80}\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}.{0,120} wrote:")
_ON = re.compile(r"On .{6,200}")
_HEADER = re.compile(r"\*?(?:From|Sent|Date|To|Cc|Reply-To|Subject):\*? ")
_RULE = re.compile(r"_{20,}|-{2,} ?(?:Original Message|Forwarded message) ?-{2,}", re.IGNORECASE)
_ADDRESS = "notifications@github.com"
_FOOTER = re.compile(
    r"Reply to this email directly|view it on GitHub|mute the thread|You are receiving this because you", re.IGNORECASE
)
_SIGNED = re.compile(
    r"(?:Signed-off-by|Co-authored-by|Reviewed-by): .{0,200}<.{0,200}>"
    r"|Sent from my (?:iPhone|iPad|Android|mobile|phone|BlackBerry).{0,80}",
    re.IGNORECASE,
)
_QUOTED = re.compile(r" {0,3}>")
_NEXT_LINES = 2  # mail programs break the line "On … wrote:" once


def without_mail(comment: str) -> str:
    """Return the comment without what e-mail added and without quoted lines, stripped of white space at both ends.

    From a mail's header to the footer of its notification all is quoted and goes; a header without a footer goes
    alone. Lines that begin with > go wherever they are, so an answer between or below them stays.
    """
    lines = comment.strip().split("\n")
    kept: list[str] = []
    fenced = False
    header_at = None  # in `kept`: where a mail's header stood
    for number, line in enumerate(lines):
        bare = line.strip()
        if bare.startswith(_FENCES):
            fenced = not fenced
        if fenced:
            kept.append(line)
        elif _QUOTED.match(line):
            continue
        elif _begins_mail(lines, number):
            header_at = len(kept) if header_at is None else header_at
        elif _FOOTER.search(bare):
            if header_at is not None:
                del kept[header_at:]
                header_at = None
        elif not (_RULE.fullmatch(bare) or _SIGNED.fullmatch(bare) or _goes_on(lines, number)):
            kept.append(line)
    return "\n".join(kept).strip()


def _begins_mail(lines: list[str], number: int) -> bool:
    """Return whether the line is a header of a quoted mail, alone or with its neighbours."""
    line = lines[number].strip()
    if _ADDRESS in line or _WROTE.fullmatch(line):
        return True
    if _HEADER.match(line):  # one such line can be prose; two in a row are a header
        near = lines[max(0, number - 1) : number] + lines[number + 1 : number + _NEXT_LINES]
        return any(_HEADER.match(other.strip()) for other in near)
    following = lines[number + 1].strip() if number + 1 < len(lines) else ""
    return bool(_ON.fullmatch(line)) and following.endswith("wrote:") and len(following) < 200


def _goes_on(lines: list[str], number: int) -> bool:
    """Return whether the line is the second half of "On … wrote:"."""
    line = lines[number].strip()
    return line.endswith("wrote:") and number > 0 and _begins_mail(lines, number - 1) and not _WROTE.fullmatch(line)
