"""GitHub issues and the conversations of pull requests: who said what, in turn, without names, bots and mail's traces.

    <issue_start>Title: T newline username_0: text<issue_comment>username_1: text…<issue_closed>

Rules and thresholds: StarCoder (arXiv 2305.06161, section 3.3) with bigcode-dataset, and 100 lines as in StarCoder 2
(arXiv 2402.19173, section 5.3). Both families use it.

Limits: people are renamed where they write and where they are mentioned with @; the reviews, hunks and states of
StarCoder 2's <pr> format are not here; of the row's events the order is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from megacode.data.documents import Document, with_parts
from megacode.data.formats import rows
from megacode.data.formats.keyed import hash_of
from megacode.data.formats.mail import without_mail

KIND = "issue"
LANGUAGE = "github-issues"
START, COMMENT, CLOSED = "<issue_start>", "<issue_comment>", "<issue_closed>"

FEWEST_CHARACTERS = 200
MOST_CHARACTERS_ALONE = 7000
MOST_EVENTS_ALONE = 10
MOST_LINES = 100
LAST_LINES = 20
TRUNCATED = "[Truncated]"
GHOST = "ghost"  # GitHub's own name for an account that is gone

NO_EVENTS = "no events (a list of objects with action, author and text)"
NO_TEXT = "nothing but bots and empty comments"
SHORT = f"under {FEWEST_CHARACTERS} characters of text"
MONOLOGUE = f"one user, and over {MOST_CHARACTERS_ALONE} characters or {MOST_EVENTS_ALONE} events"

# Apps carry [bot] by GitHub's rule, and most others say what they are behind a hyphen. The list holds well-known ones
# under a plain name. A name that merely ends in "bot" (Abbot, Talbot) is a person's.
_BOT = re.compile(
    r"\[bot\]|[-_](?:ro)?bot$|^bot-|[-_](?:ci|automation|automaton|build|deployer|linter|teamcity)$", re.IGNORECASE
)
_CAMEL_BOT = re.compile(r"[a-z0-9]Bot$")
_PLAIN_NAMES = """
bors claassistant claassistantio cmsbuild codecov codecov-commenter codecov-io coveralls dependabot dnfclas googlebot
greenkeeperio homu houndci msftclas netlify pep8speaks probot-stale rust-highfive rustbot sonarcloud sparkqa vercel
"""
BOTS = frozenset(_PLAIN_NAMES.split())
_MENTION = re.compile(r"(?<![A-Za-z0-9])@([A-Za-z0-9_-]+)")


@dataclass(frozen=True)
class Event:
    """One turn: `action` is opened, created or closed, in lower case; `text` may be empty."""

    action: str
    author: str
    title: str
    text: str


def issue_document(row: object, family: str) -> Document | str:
    """Return the conversation's document, or the reason why there is none.

    `row` is an object with `events`, or the list of events itself; `events` may be a list of objects or an object of
    lists. An event's text is its `text`, `comment` or `description`. Raises DataError for a family that lacks the
    special tokens.
    """
    rows.require(family, KIND, (START, COMMENT, CLOSED))
    row = {"events": row} if isinstance(row, list) else row
    if not isinstance(row, Mapping):
        return rows.NO_OBJECT
    events = _events(row.get("events"))
    if not events:
        return NO_EVENTS
    title = rows.text(row, "title") or next((event.title for event in events if event.title), "")
    people = [event for event in events if not is_bot(event.author)]
    cleaned = _without_echoes([replace(event, text=shortened(without_mail(event.text))) for event in people])
    told = [event for event in cleaned if event.text or event.action == "closed"]
    if not told:
        return NO_TEXT
    # Those who are heard first, so that numbers have no gap; who was not heard may still be mentioned.
    authors = dict.fromkeys(event.author.lower() for event in (*told, *people))
    users = {author: f"username_{number}" for number, author in enumerate(authors)}
    return _why_not(told) or rows.sound(_document(row, _parts(title.strip(), told, users)))


def is_bot(author: str) -> bool:
    """Return whether the account is a program's, by its name."""
    return author.lower() in BOTS or bool(_BOT.search(author) or _CAMEL_BOT.search(author))


def shortened(text: str) -> str:
    """Return a text of over 100 lines as its first 80, a line [Truncated], and its last 20; any other as it is."""
    lines = text.split("\n")
    if len(lines) <= MOST_LINES:
        return text
    return "\n".join([*lines[: MOST_LINES - LAST_LINES], TRUNCATED, *lines[-LAST_LINES:]])


def _events(value: Any) -> list[Event]:
    """Return the events of a list of objects, or of an object of lists of one length; what is neither is left out."""
    if isinstance(value, Mapping):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        length = min(map(len, columns.values()), default=0)
        value = [{key: column[index] for key, column in columns.items()} for index in range(length)]
    if not isinstance(value, list):
        return []
    return [
        Event(
            rows.text(event, "action").lower(),
            rows.text(event, "author") or GHOST,
            rows.text(event, "title"),
            rows.text(event, "text", "comment", "description"),
        )
        for event in value
        if isinstance(event, Mapping)
    ]


def _without_echoes(events: Sequence[Event]) -> list[Event]:
    """Return the events, where closing one repeats the opening's text (GitHub's archive does) without that text."""
    opening = next((event.text for event in events if event.action == "opened"), "")
    return [
        replace(event, text="") if event.action == "closed" and event.text == opening else event for event in events
    ]


def _why_not(events: Sequence[Event]) -> str:
    """Return why the conversation is not worth keeping, or the empty string; titles do not count."""
    characters = sum(len(event.text) for event in events)
    if characters < FEWEST_CHARACTERS:
        return SHORT
    if len({event.author.lower() for event in events}) >= 2:
        return ""
    return "" if characters <= MOST_CHARACTERS_ALONE and len(events) <= MOST_EVENTS_ALONE else MONOLOGUE


def _document(row: Mapping[str, Any], parts: list[tuple[str, str]]) -> Document:
    """Return the document of a conversation that is kept."""
    origin = rows.origin(row)
    number = rows.name(row, "issue_number", "number")
    path = f"{origin.repository}#{number}" if number else origin.repository
    identity = rows.name(row, "id", "issue_id") or hash_of([text for _, text in parts])
    fields = (origin.repository, origin.licenses, origin.stars, origin.date, KIND)
    return with_parts(Document(identity, path or identity, LANGUAGE, "", *fields), parts)


def _parts(title: str, events: Sequence[Event], users: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the conversation's parts. Behind the title comes the opening text, unless a bot's was left out."""
    said = [f"{users[event.author.lower()]}: {renamed(event.text, users)}" if event.text else "" for event in events]
    head = f"Title: {renamed(title, users)}" if title else ""
    opens = events[0].action == "opened" and bool(said[0])
    if opens:
        head = f"{head}\n{said[0]}" if head else said[0]
    parts = [(START, head)]
    for event, text in list(zip(events, said, strict=True))[opens:]:
        if text:
            parts.append((COMMENT, text))
        if event.action == "closed":
            parts.append((CLOSED, ""))
    return parts


def renamed(text: str, users: Mapping[str, str]) -> str:
    """Return the text with each mention of a user (@name, in any case) by its new name; other mentions stay."""

    def new_name(match: re.Match[str]) -> str:
        name = match.group(1)
        bare = name.rstrip("-_")  # as in "_@name_", which is emphasis around a name
        known = users.get(name.lower())
        if known is None and bare.lower() in users:
            known = users[bare.lower()] + name[len(bare) :]
        return match.group(0) if known is None else f"@{known}"

    return _MENTION.sub(new_name, text)
