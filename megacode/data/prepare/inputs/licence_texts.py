"""Which licence a LICENSE file holds, as its SPDX name: by sentences that only that licence has.

Limits: the texts of the best-known licences only; anything else, or a file that holds several, has no name here.
"""

from __future__ import annotations

import re

NAMES = ("license", "licence", "copying", "unlicense")
ENDINGS = ("", ".txt", ".md", ".rst")
MOST_BYTES = 200_000

_BSD = "redistribution and use in source and binary forms"
_ISC = "permission to use copy modify and or distribute this software for any purpose with or without fee"

# SPDX name, the sentences that must all be there (the first where the licence begins), and those that must not.
_TEXTS = (
    ("Apache-2.0", ("apache license version 2.0",), ()),
    ("MPL-2.0", ("mozilla public license version 2.0",), ()),
    ("AGPL-3.0-only", ("gnu affero general public license version 3",), ()),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",), ()),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",), ()),
    ("GPL-3.0-only", ("gnu general public license version 3",), ()),
    ("GPL-2.0-only", ("gnu general public license version 2",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("ISC", (_ISC, "provided that the above copyright notice"), ()),
    ("MIT", ("permission is hereby granted free of charge to any person obtaining a copy",), ()),
    ("BSD-3-Clause", (_BSD, "neither the name of"), ("advertising materials mentioning",)),
    ("BSD-2-Clause", (_BSD, "redistributions in binary form must reproduce"), ("neither the name", "advertising")),
)
_NOT_WORDS = re.compile(r"[^a-z0-9.]+|\.(?![0-9])")


def is_licence_name(name: str) -> bool:
    """Return whether a file is called as licences are: LICENSE, COPYING, License.txt, LICENSE-MIT, …"""
    name = name.lower()
    ending = next((ending for ending in ENDINGS[1:] if name.endswith(ending)), "")
    stem = name.removesuffix(ending)
    return stem in NAMES or stem.startswith(("license-", "licence-"))


def licence_of(text: str) -> str | None:
    """Return the SPDX name of the licence whose text this is, or None.

    The GNU licences quote each other, so the one that is named first, in the title, counts.
    """
    flat = _NOT_WORDS.sub(" ", text.lower())
    best, earliest = None, len(flat)
    for name, needed, excluded in _TEXTS:
        if all(sentence in flat for sentence in needed) and not any(sentence in flat for sentence in excluded):
            place = flat.index(needed[0])
            if place < earliest:
                best, earliest = name, place
    return best
