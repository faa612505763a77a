"""Issues: who speaks and in which turn, what is left out, and which conversations are kept."""

from __future__ import annotations

import time
from typing import Any

import pytest
from formatted import check_formatted, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.formats.issues import (
    MONOLOGUE,
    NO_EVENTS,
    NO_TEXT,
    SHORT,
    is_bot,
    issue_document,
    renamed,
    shortened,
)
from megacode.data.formats.mail import without_mail
from megacode.data.formats.rows import BINARY, NO_OBJECT, NOT_UTF8

LONG = "It fails on the second call with a stack trace that ends in the parser. " * 3


def event(action: str, author: str | None, text: str | None = "", title: str = "") -> dict[str, Any]:
    return {"action": action, "author": author, "text": text, "title": title, "type": "issue"}


def made(*events: dict[str, Any], **columns: object) -> Document:
    document = issue_document({"events": list(events), **columns}, "starcoder2")
    assert isinstance(document, Document), document
    check_formatted(document, "starcoder2")
    check_formatted(document, "starcoder")
    return document


def reason(*events: dict[str, Any]) -> str:
    found = issue_document({"events": list(events)}, "starcoder")
    assert isinstance(found, str), found
    return found


def test_a_conversation_is_told_turn_by_turn() -> None:
    document = made(
        event("opened", "Alice", LONG, "Parser fails"),
        event("created", "bob-b", "Which version?"),
        event("created", "alice", "The last one, @Bob-B."),
        event("closed", "bob-b"),
        event("created", "alice", "Thanks!"),
        repo="a/b",
        issue_number=7,
        issue_id=99,
    )
    assert spelled(document) == (
        f"<issue_start>Title: Parser fails\nusername_0: {LONG.strip()}"
        "<issue_comment>username_1: Which version?"
        "<issue_comment>username_0: The last one, @username_1."
        "<issue_closed>"
        "<issue_comment>username_0: Thanks!"
    )
    assert (document.id, document.path, document.repository, document.kind) == ("99", "a/b#7", "a/b", "issue")


def test_a_list_of_events_and_columns_of_events_are_the_same_conversation() -> None:
    events = [event("opened", "a", LONG, "t"), event("created", "b", "yes")]
    columns = {key: [one[key] for one in events] for key in events[0]}
    as_row = issue_document({"events": events}, "starcoder")
    assert isinstance(as_row, Document)
    assert as_row == issue_document(events, "starcoder") == issue_document({"events": columns}, "starcoder")


def test_the_published_names_of_a_text_are_read() -> None:
    opening = {"action": "opened", "author": "a", "description": LONG, "comment": None, "title": "t"}
    answer = {"action": "created", "author": "b", "description": "", "comment": "yes", "title": ""}
    assert spelled(made(opening, answer)) == (
        f"<issue_start>Title: t\nusername_0: {LONG.strip()}<issue_comment>username_1: yes"
    )


def test_a_bots_opening_leaves_its_title_and_the_comments_stay_comments() -> None:
    document = made(
        event("opened", "dependabot[bot]", "Bumps x.", "Bump x to 2"),
        event("created", "alice", LONG),
        event("created", "codecov-io", "Coverage 99 %"),
    )
    assert spelled(document) == f"<issue_start>Title: Bump x to 2<issue_comment>username_0: {LONG.strip()}"


def test_without_a_title_the_text_begins_at_once() -> None:
    assert spelled(made(event("opened", "a", LONG))) == f"<issue_start>username_0: {LONG.strip()}"


def test_a_closing_that_repeats_the_opening_says_nothing_and_another_is_a_comment() -> None:
    opening = event("opened", "a", LONG, "t")
    assert spelled(made(opening, event("closed", "a", LONG, "t"))).endswith("parser.<issue_closed>")
    assert spelled(made(opening, event("closed", "b", "Fixed."))).endswith(
        "<issue_comment>username_1: Fixed.<issue_closed>"
    )


def test_an_account_that_is_gone_is_a_user() -> None:
    assert spelled(made(event("opened", None, LONG), event("created", "b", "ok"))).endswith("username_1: ok")


def test_who_left_only_empty_comments_is_renamed_too_and_leaves_no_gap() -> None:
    document = made(event("opened", "a", LONG), event("created", "mute", "> x"), event("created", "b", "@mute, look"))
    assert spelled(document).endswith("<issue_comment>username_1: @username_2, look")


@pytest.mark.parametrize(
    ("name", "bot"),
    [
        *(("dependabot[bot]", True), ("k8s-ci-robot", True), ("CLAassistant", True), ("SparkQA", True)),
        *(("facebook-github-bot", True), ("FluxBot", True), ("bot-jenkins", True), ("build_bot", True)),
        *(("apple-ci", True), ("googlebot", True), ("alice", False), ("Abbot", False), ("talbot", False)),
        *(("botha", False), ("robotics", False), ("ci", False), ("marci", False), ("", False)),
    ],
)
def test_bots_are_known_by_their_names(name: str, bot: bool) -> None:
    assert is_bot(name) == bot


@pytest.mark.parametrize(
    ("characters", "users", "events", "expected"),
    [
        *((199, 2, 2, SHORT), (200, 2, 2, None), (200, 1, 1, None), (7000, 1, 10, None)),
        *((7001, 1, 2, MONOLOGUE), (300, 1, 11, MONOLOGUE), (7001, 2, 2, None), (300, 2, 40, None)),
    ],
)
def test_a_conversation_is_kept_by_its_length_and_its_users(
    characters: int, users: int, events: int, expected: str | None
) -> None:
    texts = ["x" * (characters - events + 1)] + ["y"] * (events - 1)
    row = [event("opened" if not n else "created", f"u{n % users}", text, "t") for n, text in enumerate(texts)]
    found = issue_document(row, "starcoder")
    assert found == expected if expected else isinstance(found, Document)


def test_a_comment_over_100_lines_keeps_its_first_80_and_last_20() -> None:
    lines = [str(number) for number in range(101)]
    assert shortened("\n".join(lines[:100])) == "\n".join(lines[:100])
    assert shortened("\n".join(lines)).split("\n") == [*lines[:80], "[Truncated]", *lines[81:]]


def test_only_bots_and_nothing_at_all_have_their_reasons() -> None:
    assert reason(event("opened", "x[bot]", LONG)) == NO_TEXT
    assert reason(event("opened", "a", " \n")) == NO_TEXT
    assert reason() == NO_EVENTS


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        *((None, NO_OBJECT), ("text", NO_OBJECT), (3, NO_OBJECT), ({}, NO_EVENTS), ({"events": "x"}, NO_EVENTS)),
        *(({"events": [1, None]}, NO_EVENTS), ({"events": {"text": "x"}}, NO_EVENTS), ([], NO_EVENTS)),
        *(([event("opened", "a", LONG + "\0")], BINARY), ([event("opened", "a", LONG + "\ud800")], NOT_UTF8)),
    ],
)
def test_rows_of_another_shape_have_a_reason(row: object, expected: str) -> None:
    assert issue_document(row, "starcoder") == expected


@pytest.mark.parametrize(
    ("mail", "left"),
    [
        ("I agree.\n> first\n> second\nBut no.", "I agree.\nBut no."),
        ("Yes.\n\nOn Mon, Jan 2, 2023 at 3:04 PM, A B <a@b.c> wrote:\n\n> Is it?\n", "Yes."),
        ("Yes.\n\nOn Mon, Jan 2, 2023 at 3:04 PM, A B <a@b.c>\nwrote:\n> Is it?", "Yes."),
        ("Yes.\n\n2023-01-02 15:04 GMT+01:00 A B <notifications@github.com>:\n\n> Is it?", "Yes."),
        (
            "Yes.\n________________________________\nFrom: A B <notifications@github.com>\nSent: Monday\nTo: c/d\n"
            "Subject: Re: [c/d]\n\nIs it?\n\n—\nReply to this email directly, view it on GitHub<https://x>.\n",
            "Yes.",
        ),
        ("On Mon, Jan 2, 2023, A B <a@b.c> wrote:\n> Is it?\n\nYes.\n\nSent from my iPhone", "Yes."),
        ("On Mon, Jan 2, 2023, A wrote:\n> a\nYes.\n> b\n> Reply to this email directly", "Yes."),
        ("Yes.\n\n—\nReply to this email directly or view it on GitHub.", "Yes.\n\n—"),
        (
            "Yes.\nOn Mon, Jan 2, 2023, A wrote:\nIs it?\nReply to this email directly\nBelow.\nview it on GitHub",
            "Yes.\nBelow.",
        ),
        ("Fine by me.\n\nSigned-off-by: A B <a@b.c>", "Fine by me."),
        ("From: what I see, it fails.", "From: what I see, it fails."),
        ("On Windows it fails, as I wrote: use the other.", "On Windows it fails, as I wrote: use the other."),
        ("```\n> npm test\n```\nfails", "```\n> npm test\n```\nfails"),
        ("See\n\n    >>> f()\n   > quoted", "See\n\n    >>> f()"),
        ("  \n", ""),
    ],
)
def test_what_mail_adds_goes_and_what_people_write_stays(mail: str, left: str) -> None:
    assert without_mail(mail) == left


MAIL_LINES = ["", "> x", "```", "From: a", "Sent: b", "On Mon, Jan 2 A", "a wrote:", "On Monday he wrote:", "_" * 20]
FOOTERS = ["Reply to this email directly", "view it on GitHub", "notifications@github.com", "text", " indented"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(MAIL_LINES + FOOTERS), st.text(max_size=8)), max_size=20).map("\n".join))
def test_cleaning_mail_only_leaves_lines_out(text: str) -> None:
    rest = iter([line.strip() for line in text.split("\n")])
    assert all(line.strip() in rest for line in without_mail(text).split("\n") if line.strip())


def test_long_comments_take_time_in_proportion() -> None:
    started = time.process_time()
    for text in ("On " + "a" * 2_000_000, "> x\n" * 300_000, "From: x\n" * 200_000, "1/1/1 " * 300_000):
        without_mail(text)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@ann: see @Ann, (@ann) and @ANN's", "@username_0: see @username_0, (@username_0) and @username_0's"),
        ("ann, x@ann and @anna stay", "ann, x@ann and @anna stay"),
        ("_@ann_ is emphasis", "_@username_0_ is emphasis"),
        ("@Override @property", "@Override @property"),
    ],
)
def test_mentions_of_people_who_speak_are_renamed(text: str, expected: str) -> None:
    assert renamed(text, {"ann": "username_0"}) == expected


texts = st.one_of(st.text(max_size=60), st.sampled_from(["<issue_comment>", "<|endoftext|>x", "@ann hi", "> quote"]))


@settings(max_examples=150, deadline=None)
@given(
    said=st.lists(
        st.tuples(st.sampled_from(["opened", "created", "closed"]), st.sampled_from(["ann", "bob", "c[bot]"]), texts)
    ),
    title=texts,
)
def test_any_conversation_is_a_document_or_a_reason_and_the_same_twice(said: list, title: str) -> None:
    row = [event("opened", "ann", LONG, title), *(event(*one) for one in said)]
    found = issue_document(row, "starcoder2")
    assert found == issue_document(row, "starcoder2")
    if isinstance(found, Document):
        specials = check_formatted(found, "starcoder2")
        assert specials[0] == "<issue_start>" and "<issue_start>" not in specials[1:]
        assert specials.count("<issue_closed>") == sum(a == "closed" and u != "c[bot]" for a, u, _ in said)
    else:
        assert found in (BINARY, MONOLOGUE)
