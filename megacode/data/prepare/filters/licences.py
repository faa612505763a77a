"""Licences by list: which SPDX names are permissive, and whether all of a file's licences are on a list.

The permissive ones are those that The Stack kept (arXiv 2211.15533, section 3.1; arXiv 2402.19173, section 2.3):
licences that the Blue Oak Council rates from model to lead. Documents without any licence: StarCoder2 kept them,
StarCoder did not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

_PERMISSIVE = """
0BSD AAL ADSL AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML AMPAS ANTLR-PD ANTLR-PD-fallback Adobe-2006
Adobe-Glyph Afmparse Apache-1.0 Apache-1.1 Apache-2.0 Artistic-2.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-FreeBSD
BSD-2-Clause-NetBSD BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause BSD-3-Clause-Attribution BSD-3-Clause-Clear
BSD-3-Clause-LBNL BSD-3-Clause-Modification BSD-3-Clause-Open-MPI BSD-4-Clause BSD-4-Clause-UC BSD-Source-Code BSL-1.0
Bahyph Barr Beerware BlueOak-1.0.0 Borceux CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC-PDDC CC0-1.0
CNRI-Jython CNRI-Python CNRI-Python-GPL-Compatible Cube DOC DSDP ECL-1.0 ECL-2.0 EFL-1.0 EFL-2.0 Entessa FSFAP FSFUL
FSFULLR FTL Fair HPND HPND-sell-variant HaskellReport ICU IJG ISC ImageMagick Info-ZIP Intel JSON JasPer-2.0 Leptonica
Libpng Linux-OpenIB MIT MIT-0 MIT-CMU MIT-Modern-Variant MIT-Wu MIT-advertising MIT-enna MIT-feh MITNFA MS-PL MTLL
MirOS Multics Mup NBPL-1.0 NCSA NIST-PD NIST-PD-fallback NLPL NTP NTP-0 Naumen Net-SNMP NetCDF Newsletr OFL-1.0
OFL-1.1 OGTSL OLDAP-2.0 OLDAP-2.3 OLDAP-2.7 OLDAP-2.8 OML OpenSSL PDDL-1.0 PHP-3.0 PHP-3.01 PSF-2.0 Plexus PostgreSQL
Python-2.0 Qhull RSA-MD SGI-B-2.0 SMLNJ SSH-OpenSSH SSH-short SWL Saxpath Spencer-86 Spencer-94 Spencer-99
StandardML-NJ TCL TCP-wrappers TU-Berlin-1.0 TU-Berlin-2.0 UPL-1.0 Unicode-DFS-2015 Unicode-DFS-2016 Unicode-TOU
Unlicense VSL-1.0 W3C W3C-19980720 W3C-20150513 WTFPL X11 XFree86-1.1 Xerox Xnet ZPL-1.1 ZPL-2.0 ZPL-2.1 Zed Zend-2.0
Zlib bzip2-1.0.5 bzip2-1.0.6 curl libpng-2.0 libtiff mpich2 psfrag xinetd xpp zlib-acknowledgement
"""
PERMISSIVE = frozenset(_PERMISSIVE.split())
UNLICENSED = frozenset({"keep", "drop"})
_WORD = re.compile(r"[()]|[^\s()]+")
_MOST_CHARACTERS = 4096


def licence_allowed(licenses: Iterable[str], allowed: Collection[str], unlicensed: str = "keep") -> bool:
    """Return whether every one of a document's licences is allowed; `unlicensed` ("keep", "drop"): when it has none.

    `allowed` are SPDX names in any case; "permissive" among them stands for PERMISSIVE. A licence may be an expression:
    "MIT OR GPL-2.0-only" needs one side, "MIT AND GPL-2.0-only" both; an exception after WITH only adds permissions.
    What is no name or expression is not allowed.
    """
    assert unlicensed in UNLICENSED, unlicensed
    expressions = [one for one in licenses if one.strip()]
    if not expressions:
        return unlicensed == "keep"
    names = _names(frozenset(allowed))
    return all(_holds(one, names) for one in expressions)


@lru_cache(maxsize=64)
def _names(allowed: frozenset[str]) -> frozenset[str]:
    """Return the list in lower case, "permissive" replaced by what it stands for."""
    lower = frozenset(name.lower() for name in allowed)
    return lower | {name.lower() for name in PERMISSIVE} if "permissive" in lower else lower


@lru_cache(maxsize=4096)
def _holds(expression: str, names: frozenset[str]) -> bool:
    """Return whether an SPDX expression is fulfilled by `names`: AND binds before OR, no recursion for brackets."""
    if len(expression) > _MOST_CHARACTERS:
        return False
    # Of each open bracket: the alternatives so far, and the values that AND joins now.
    alternatives: list[list[bool]] = [[]]
    joined: list[list[bool]] = [[]]
    expects_value, skips = True, False
    for word in _WORD.findall(expression):
        upper = word.upper()
        if skips:  # the exception's name
            skips = False
        elif expects_value and word == "(":
            alternatives.append([])
            joined.append([])
        elif expects_value and word != ")" and upper not in ("AND", "OR", "WITH"):
            joined[-1].append(word.lower().removesuffix("+") in names)
            expects_value = False
        elif not expects_value and word == ")" and len(joined) > 1:
            value = any([*alternatives.pop(), all(joined.pop())])
            joined[-1].append(value)
        elif not expects_value and upper == "OR":
            alternatives[-1].append(all(joined[-1]))
            joined[-1] = []
            expects_value = True
        elif not expects_value and upper in ("AND", "WITH"):
            expects_value, skips = upper == "AND", upper == "WITH"
        else:
            return False
    if expects_value or skips or len(joined) > 1:
        return False
    return any([*alternatives[0], all(joined[0])])
