"""Secrets that show by their own shape or by what stands around them: the rules of detect-secrets (Yelp), made fast.

The plugins try every rule on every line, 0.1 MB/s. Here a rule runs only where its cheap trigger matches: a literal
that every match must hold, or a cheaper expression that matches wherever the rule does. The rule then looks at a
bounded stretch of the line around the trigger. Nothing is ever verified over the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.cloudant import CloudantDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.ibm_cloud_iam import IbmCloudIamDetector
from detect_secrets.plugins.ibm_cos_hmac import IbmCosHmacDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.softlayer import SoftlayerDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from megacode.data.prepare.redact.kinds import KEY, PASSWORD, Span

_Expressions = tuple[re.Pattern[str], ...]


@dataclass(frozen=True)
class Rule:
    """One rule of a plugin, or several with one trigger.

    `hints`: texts of which a document must hold one. `trigger`: matches inside or at every match of `expressions`,
    on the folded text (`fold`) if `folded`. `before`, `after`: how many characters a match may begin ahead of the
    trigger's start and end behind its end; with `before` 0 a match begins at the trigger. `group`: the secret's;
    `skip`: characters at its head that are no secret; `trim`: what stands around it is matched too. `random`: it
    must look random, for its shape alone proves little.
    """

    name: str
    expressions: _Expressions
    hints: tuple[str, ...]
    trigger: re.Pattern[str]
    before: int = 0
    after: int = 0
    group: int = 0
    skip: int = 0
    folded: bool = False
    trim: bool = False
    random: bool = False
    kind: str = KEY


def fold(content: str) -> str:
    """Return `content` in lower case, each character in its place, as IGNORECASE sees it: ſ is s, İ and ı are i."""
    if not content.isascii():
        content = content.replace("ſ", "s").replace("İ", "i").replace("ı", "i")
    return content.lower()


def find_tokens(content: str, folded: str) -> Iterator[tuple[Rule, Span]]:
    """Yield what the rules match in `content`, before any doubt about it; `folded` is `fold(content)`."""
    for rule in _rules():
        text = folded if rule.folded else content
        if not any(hint in text for hint in rule.hints):
            continue
        done = 0
        for trigger in rule.trigger.finditer(text):
            if trigger.start() < done:
                continue
            for span in _apply(rule, content, trigger):
                done = max(done, span.end)
                yield rule, span
    yield from _find_web_tokens(content)


def _apply(rule: Rule, content: str, trigger: re.Match[str]) -> Iterator[Span]:
    """Yield the matches of `rule` around one trigger."""
    at, end = trigger.start(), trigger.end() + rule.after
    if not rule.before:
        for expression in rule.expressions:
            if match := expression.match(content, at, end):
                yield _secret(rule, match, 0)
        return
    start = max(0, at - rule.before)
    piece = _SPACES.sub(" ", content[start:end]) if rule.folded else content[start:end]
    for expression in rule.expressions:
        for match in expression.finditer(piece):
            secret = match.group(rule.group)
            found = content.find(secret, start + match.start(rule.group), end)  # later where spaces were dropped
            if found >= 0:
                yield _secret(rule, match, found - match.start(rule.group))


def _secret(rule: Rule, match: re.Match[str], offset: int) -> Span:
    """Return where the secret of `match` lies, less what stands around it, in a text that begins at `offset`."""
    start, end = match.span(rule.group)
    text = match.group(rule.group)
    start += rule.skip
    if rule.trim:
        start += len(text) - len(text.lstrip(_AROUND))
        end -= len(text) - len(text.rstrip(_AROUND))
    return Span(start + offset, end + offset, rule.kind)


def _find_web_tokens(content: str) -> Iterator[tuple[Rule, Span]]:
    """Yield JSON Web Tokens, the signature too, which the plugin's own match leaves behind."""
    if "eyJ" not in content:
        return
    rule = _web_token_rule()
    for trigger in rule.trigger.finditer(content):
        match = rule.expressions[0].match(content, trigger.start())
        if match and JwtTokenDetector.is_formally_valid(match.group()):
            rest = _SIGNATURE.match(content, match.end())
            yield rule, Span(match.start(), rest.end() if rest else match.end(), KEY)


_SPACES = re.compile("  +")
_AROUND = " \t\r\n\f\v=:\"'"
_SIGNATURE = re.compile(r"\.?[A-Za-z0-9_\-=+/]*+")
# All of detect-secrets' "prefix_keyword = secret" rules: the keyword, an assignment or spaces, the secret's first 24.
_ASSIGNED = re.compile(r"""(?:key|pwd?|password|pass|token)["']?\]? *+(?:=>?|::?=?)? *+["']?[a-z0-9_\-]{24}""")


def _of(plugin: type[RegexBasedDetector], first: int = 0, last: int | None = None) -> _Expressions:
    """Return the plugin's own expressions, some or all."""
    return tuple(plugin.denylist)[first:last]


@cache
def _web_token_rule() -> Rule:
    """Return the rule of JSON Web Tokens; its trigger takes a whole run, so that a long one is looked at once."""
    return Rule("JWT", _of(JwtTokenDetector), ("eyJ",), re.compile(r"eyJ[A-Za-z0-9\-_=]++"))


@cache
def _rules() -> tuple[Rule, ...]:
    """Return every rule but that of JSON Web Tokens."""
    return (*_rules_by_shape(), *_rules_by_surroundings(), *_rules_of_ours())


def _rules_by_shape() -> tuple[Rule, ...]:
    """Return the rules of secrets that begin with a mark of their own, or hold one."""
    trigger = re.compile
    github = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")
    gitlab = ("pat", "dt", "ft", "soat", "rt", "cbt", "imt", "ptt", "agent", "oas")
    slack = _of(SlackDetector)
    return (
        Rule(
            "Artifactory",
            _of(ArtifactoryDetector),
            ("AKC", "AP"),
            trigger(r"(?:(?<=[\s=:\"])|\A)(?:AKC[a-zA-Z0-9]{10}|AP[\dA-F][a-zA-Z0-9]{8})[a-zA-Z0-9]*+"),
            before=1,
            after=1,
            trim=True,
            random=True,
        ),
        Rule("AWS", _of(AWSKeyDetector, 0, 1), ("A3T", "ABIA", "ACCA", "AKIA", "ASIA"), _of(AWSKeyDetector)[0]),
        Rule(
            "Discord",
            _of(DiscordBotTokenDetector),
            (".",),
            trigger(r"\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27}"),
            before=26,
            random=True,
        ),
        Rule("GitHub", _of(GitHubTokenDetector), github, trigger("gh[pousr]_"), after=36),
        Rule(
            "GitLab",
            _of(GitLabTokenDetector),
            (*(f"gl{name}-" for name in gitlab), "GR1348941"),
            trigger(f"gl(?:{'|'.join(gitlab)})-|GR1348941"),
            after=1040,
        ),
        Rule("Mailchimp", _of(MailchimpDetector), ("-us",), trigger("-us[0-9]"), before=32, after=1, random=True),
        Rule(
            "NPM",
            _of(NpmDetector),
            (":_authToken=",),
            trigger(r"/:_authToken=\s*(?:npm_[A-Za-z0-9]*+|[A-Fa-f0-9-]{36})"),
            before=200,
            group=1,
        ),
        Rule("OpenAI", _of(OpenAIDetector), ("T3BlbkFJ",), trigger("T3BlbkFJ[A-Za-z0-9]{20}"), before=200),
        Rule("PyPI", _of(PypiTokenDetector), ("pypi-AgE",), trigger("pypi-AgE"), after=10_000),
        Rule("SendGrid", _of(SendGridDetector), ("SG.",), trigger(r"SG\."), after=66),
        Rule("Slack", slack[:1], ("xox",), slack[0], folded=True),
        Rule(
            "Slack webhook", slack[1:], ("hooks.slack.com",), trigger(r"https://hooks\.slack\.com/[\w/]*+"), folded=True
        ),
        Rule("Square", _of(SquareOAuthDetector), ("sq0csp-",), trigger("sq0csp-"), after=43),
        Rule("Stripe", _of(StripeDetector), ("k_live_",), trigger("[rs]k_live_"), after=24),
        Rule("Twilio", _of(TwilioKeyDetector), ("AC", "SK"), trigger("(?:AC|SK)[a-z0-9]{32}"), random=True),
    )


def _rules_by_surroundings() -> tuple[Rule, ...]:
    """Return the rules of secrets that a name or a URL in front of them gives away."""
    trigger = re.compile
    assigned = (*_of(CloudantDetector, 0, 2), *_of(IbmCloudIamDetector), *_of(IbmCosHmacDetector))
    return (
        Rule(
            "AWS secret",
            _of(AWSKeyDetector, 1),
            ("aws",),
            trigger(r"['\"][0-9a-z/+]{40}['\"]"),
            before=60,
            group=1,
            folded=True,
        ),
        Rule("Azure", _of(AzureStorageKeyDetector), ("AccountKey=",), trigger("AccountKey="), after=88, skip=11),
        Rule(
            "Basic authentication",
            _of(BasicAuthDetector),
            ("://",),
            _of(BasicAuthDetector)[0],
            group=1,
            kind=PASSWORD,
        ),
        Rule(
            "assignment",
            (*assigned, *_of(SoftlayerDetector, 0, 1)),
            ("key", "pw", "pass", "token"),
            _ASSIGNED,
            before=40,
            after=70,
            group=1,
            folded=True,
            random=True,
        ),
        Rule(
            "SoftLayer URL",
            _of(SoftlayerDetector, 1),
            ("softlayer",),
            trigger("https?://api.softlayer.com/soap/v3"),
            after=70,
            group=1,
            folded=True,
        ),
        Rule(
            "Telegram",
            _of(TelegramBotTokenDetector),
            (":",),
            trigger(r":(?<=\d:)[0-9A-Za-z_-]{35}"),
            before=10,
            random=True,
        ),
    )


def _rules_of_ours() -> tuple[Rule, ...]:
    """Return rules of well-known marks that detect-secrets 1.5 does not have."""
    marks = (
        ("GitHub fine-grained", "github_pat_", r"github_pat_[A-Za-z0-9_]{36,255}"),
        ("Google API", "AIza", r"AIza[A-Za-z0-9_\-]{35}(?![\w\-])"),
        ("Anthropic", "sk-ant-", r"sk-ant-[a-z0-9]{2,8}-[A-Za-z0-9_\-]{40,200}"),
        ("Hugging Face", "hf_", r"hf_[A-Za-z]{34}(?!\w)"),
        ("DigitalOcean", "dop_v1_", r"dop_v1_[0-9a-f]{64}"),
    )
    return tuple(Rule(name, (re.compile(text),), (mark,), re.compile(text), random=True) for name, mark, text in marks)
