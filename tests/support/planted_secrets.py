"""Made-up secrets of every shape that the detectors know, put together at run time: no scanner shall find this file."""

from __future__ import annotations

import base64
import json
import random
import string

LETTERS, DIGITS, HEX = string.ascii_letters, string.digits, "0123456789abcdef"
WORD = LETTERS + DIGITS


class Forger:
    """Draws secrets from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self, alphabet: str, length: int) -> str:
        """Return `length` random characters with a digit and, where there are any, a letter among them."""
        while True:
            text = "".join(self.random.choices(alphabet, k=length))
            has_letter = any(map(str.isalpha, text)) or not any(map(str.isalpha, alphabet))
            if has_letter and (any(map(str.isdigit, text)) or not any(map(str.isdigit, alphabet))):
                return text

    def web_token(self) -> str:
        """Return a JSON Web Token with a signature."""
        forms = ({"alg": "HS256", "typ": "JWT"}, {"sub": self.draw(DIGITS, 10), "name": self.draw(LETTERS, 8)})
        head = (base64.urlsafe_b64encode(json.dumps(form).encode()).decode().rstrip("=") for form in forms)
        return ".".join((*head, self.draw(WORD + "_-", 43)))

    def tokens(self) -> dict[str, str]:
        """Return one secret for each shape that shows by itself."""
        draw = self.draw
        return {
            "artifactory": "AKC" + draw(WORD, 20),
            "artifactory password": "AP" + "B" + draw(WORD, 18),
            "aws": "AKIA" + draw(string.ascii_uppercase + DIGITS, 16),
            "discord": "M" + draw(WORD, 23) + "." + draw(WORD, 6) + "." + draw(WORD, 27),
            "github": "ghp" + "_" + draw(WORD, 36),
            "github fine-grained": "github" + "_pat_" + draw(WORD, 60),
            "gitlab": "glpat" + "-" + draw(WORD, 20),
            "gitlab runner": "GR1348941" + draw(WORD, 20),
            "gitlab oauth": "gloas" + "-" + draw(WORD, 64),
            "jwt": self.web_token(),
            "mailchimp": draw(HEX, 32) + "-us" + "12",
            "openai": "sk-" + draw(WORD, 20) + "T3Blbk" + "FJ" + draw(WORD, 20),
            "pypi": "pypi-AgEIcHlwaS5v" + "cmc" + draw(WORD, 90),
            "sendgrid": "SG." + draw(WORD, 22) + "." + draw(WORD, 43),
            "slack": "xox" + "b-" + draw(DIGITS, 11) + "-" + draw(DIGITS, 12) + "-" + draw(WORD.lower(), 24),
            "slack webhook": "https://hooks.slack"
            + ".com/services/T"
            + draw(WORD, 8)
            + "/B"
            + draw(WORD, 8)
            + "/"
            + draw(WORD, 24),
            "square": "sq0csp" + "-" + draw(WORD, 43),
            "stripe": "sk_" + "live_" + draw(WORD, 24),
            "telegram": draw(DIGITS, 9) + ":" + draw(WORD, 35),
            "twilio": "SK" + draw(HEX, 32),
            "google": "AIza" + draw(WORD, 35),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return (line of code, the secret in it) for every shape, and for every way to name one."""
        found = []
        for name, secret in self.tokens().items():
            quoted = f'"{secret}"' if name.startswith("artifactory") else f"'{secret}'"
            found += [(f"    call({quoted}, timeout=3)", secret), (f"# see {secret} for it", secret)]
        word, hexadecimal = self.draw(WORD, 12), self.draw(HEX, 32)
        base = "".join(self.random.sample(WORD + "+/", 39)) + "7"
        named = (
            f'password = "{word}"',
            f"config['db_password'] = '{word}'",
            f'    "passwd": "{word}",',
            f"    pwd: '{word}',",
            f'my_password => "{word}"',
            f'if "{word}" == password:',
            f"if ('{word}' !== user_password) {{",
            f'password "{word}";',
            f"password != `{word}`",
            f"DB_PASS = '{word}'; x = 1",
            f'CONTRASEÑA = "{word}"',
            f"API_KEY = '{hexadecimal}'",
            f'client_secret: "{hexadecimal}",',
            f'"secret": "{base}"',
            f"auth_key='{base}'",
        )
        found += [(line, next(one for one in (word, hexadecimal, base) if one in line)) for line in named]
        long, cloud = self.draw(HEX, 64), self.draw(HEX, 48)
        ibm = self.draw(WORD + "_", 44)
        found += [
            (f"AccountName=x;AccountKey={self.draw(WORD, 86)}==;", "AccountKey="),
            (f"aws_secret_access_key = '{base}'", base),
            (f"cloudant_password   =   {long}", long),
            (f"softlayer_api_key: '{long}'", long),
            (f'cos_hmac_secret_access_key="{cloud}"', cloud),
            (f"ibm_cloud_iam_api_key = {ibm}", ibm),
            (f"//registry.npmjs.org/:_authToken=npm_{word}{word}", f"npm_{word}{word}"),
            (f"url = 'postgres://alice:{word}@db.internal:5432/x'", word),
            (f"x = '{base}'  # for the call", base),
            (f"token = get('{hexadecimal}')", hexadecimal),
        ]
        return found
