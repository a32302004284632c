"""Find secrets in text and in nested parameters, and take them out.

Three kinds of evidence: a token whose own shape gives it away, a value that stands next to the
name of a secret, and the parts of a URL that grant access. Every pattern starts at a literal or
at a token border and has bounded gaps, so hostile input costs linear time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import cast
from urllib.parse import urlsplit

REDACTED = "[REDACTED]"
TRUNCATED = "...(truncated)"

_MAX_TEXT = 10_000
# A secret that starts before the cut is still seen whole when it is shorter than this.
_MARGIN = 8_192
_SCAN_EDGE = 65_536
_MAX_PATH = 200

_SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9_-])(?:
      sk-(?:proj|svcacct|admin|ant|or|live|test)-[A-Za-z0-9_-]{16,}   # OpenAI, Anthropic, resellers
    | sk-[A-Za-z0-9]{20,}
    | sk_[A-Za-z0-9_]{24,}                                            # ElevenLabs, Stripe
    | key_[0-9a-f]{64,}                                               # Runway
    | luma-[0-9a-f-]{30,}
    | nvapi-[A-Za-z0-9_-]{16,}
    | r8_[A-Za-z0-9]{20,}                                             # Replicate
    | hf_[A-Za-z0-9]{20,}
    | gh[oprsu]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | xox[a-z]-[A-Za-z0-9-]{10,}                                      # Slack
    | AQ\.[A-Za-z0-9_-]{30,} | ya29\.[A-Za-z0-9_-]{20,}               # Google
    | ey[JA][A-Za-z0-9_-]{7,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,} # JWT
    | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9a-f]{32,}       # fal
    )
    | (?<![A-Za-z0-9])whsec_[A-Za-z0-9+/]{16,}={0,2}                  # Standard Webhooks
    | gbcb_[A-Za-z0-9_-]{20,}                                         # our callbacks, in any text
    # The rest could occur inside base64, so not behind its other characters either.
    | (?<![A-Za-z0-9_+/-])(?:
      AIza[A-Za-z0-9_-]{30,}                                          # Google
    | (?:AKIA|ASIA)[A-Z0-9]{16,}
    | K0[0-9]{2}[A-Za-z0-9+/]{20,}                                    # Backblaze application keys
    | (?!/)(?=[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=]))                    # AWS secret access key
      (?=[A-Za-z0-9+/]*[A-Z])(?=[A-Za-z0-9+/]*[a-z])
      (?=[A-Za-z0-9+/]*[0-9])(?=[A-Za-z0-9]*[+/])[A-Za-z0-9+/]{40}
    )""",
    re.VERBOSE,
)

_HINTED = re.compile(
    r"""
      (?:bearer|token)\s{1,4}(?P<scheme>[A-Za-z0-9._~+/=-]{20,})
    | authorization["']?\s{0,4}[:=]\s{0,4}["']?
      (?P<header>(?:[A-Za-z]{3,20}[ \t]{1,4})?[^\s"',;]{6,})
    | (?:api[_-]?key|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?access)?(?:[_-]?key)?
       |client[_-]?secret|(?:access|auth|refresh|session|security)[_-]?token
       |app(?:lication)?[_-]?key|private[_-]?key)
      ["']?\s{0,4}[:=]\s{0,4}["']?(?P<value>[A-Za-z0-9._~+/=%-]{16,})
    | (?:secret|aws|access[ _-]key)[^\n]{0,40}?(?<![A-Za-z0-9+/])
      (?P<aws>(?-i:(?=[A-Za-z0-9+/]*[A-Z])(?=[A-Za-z0-9+/]*[a-z])[A-Za-z0-9+/]{40}))
      (?![A-Za-z0-9+/=])
    """,
    re.VERBOSE | re.IGNORECASE,
)

_PASSWORDS = re.compile(
    r"""(?:password|passwd|pwd)["']?\s{0,4}[:=]\s{0,4}["']?(?P<value>[^\s"',;&]{4,})""",
    re.IGNORECASE,
)

_URLS = re.compile(
    r"""
      ://(?P<login>[^\s/?\#@:"'<>]*:[^\s/?\#"'<>]*)@
    | (?<![a-z0-9])x-(?:amz|goog)-(?:signature|credential|security-token)
      ["']?\s{0,4}[=:]\s{0,4}["']?(?P<signed>[^\s&"'<>;,]+)
    | [?&;](?:signature|sig|awsaccesskeyid|googleaccessid)=(?P<signature>[^\s&"'<>\#;]+)
    | [?&;](?:(?:access_|auth_|id_)?token|api_?key|key|auth|jwt|hdnea|hmac|password|secret)
      =(?P<query>[^\s&"'<>\#;]{6,})
    """,
    re.VERBOSE | re.IGNORECASE,
)

_SECRET_NAME = re.compile(
    r"""(?:.*[_.-])?(?:
      api[_-]?key|access[_-]?key(?:[_-]id)?|secret(?:[_-]?access)?(?:[_-]?key)?|client[_-]?secret
      |(?:access|auth|refresh|session|security|bearer)[_-]?token|app(?:lication)?[_-]?key
      |private[_-]?key|authorization|password|passwd|credentials?
    )""",
    re.VERBOSE | re.IGNORECASE,
)

_SCANNERS = (_SHAPES, _HINTED, _URLS)


def redact(text: str, *, max_chars: int = _MAX_TEXT) -> str:
    """Return the text with every secret replaced by `[REDACTED]`, cut after `max_chars`.

    A secret that reaches across the cut is removed whole. Prompts are not secrets; keep them out
    of messages by other means.
    """
    window = text[: max_chars + _MARGIN]
    parts: list[str] = []
    position = 0
    for start, end in _spans(window, (*_SCANNERS, _PASSWORDS)):
        if start >= max_chars:
            break
        parts += (window[position:start], REDACTED)
        position = end
    parts.append(window[position:max_chars])
    if len(text) > max(position, max_chars):
        parts.append(TRUNCATED)
    return "".join(parts)


def find_secret(value: object) -> str | None:
    """Return where a secret hides in nested parameters, None when nothing looks like one.

    The answer is a path such as `headers.x-api-key` or `items[2].url` (`value` for a bare
    string), never the secret. Strings, bytes, mappings and sequences are searched; of a very long
    string the first and last 64 KiB.
    """
    seen: set[int] = set()
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, (str, bytes, bytearray)):
            if _holds_secret(item):
                return path or "value"
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        for key, child in _children(item):
            child_path = redact(f"{path}{key}", max_chars=_MAX_PATH).removeprefix(".")
            if _holds_secret(key) or (_is_secret_name(key) and _is_filled(child)):
                return child_path
            stack.append((child_path, child))
    return None


def strip_url(url: str) -> str:
    """Return scheme, host, port and path of a URL, fit for messages and logs.

    User info, query and fragment, where credentials travel, are left out; a long path is cut.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable URL"
    if not parts.netloc and parts.scheme != "file":
        return f"a {parts.scheme}: URL" if parts.scheme else redact(parts.path, max_chars=80)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{redact(parts.path, max_chars=80)}"


def _spans(text: str, patterns: Sequence[re.Pattern[str]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            name = match.lastgroup
            found.append(match.span(name) if name else match.span())
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _children(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, Mapping):
        for key, child in cast("Mapping[object, object]", item).items():
            yield f".{key}", child
    elif isinstance(item, (Sequence, Set)):
        for index, child in enumerate(cast("Sequence[object]", item)):
            yield f"[{index}]", child


def _holds_secret(value: str | bytes | bytearray) -> bool:
    text = value if isinstance(value, str) else bytes(value).decode("latin-1")
    pieces = (text,) if len(text) <= 2 * _SCAN_EDGE else (text[:_SCAN_EDGE], text[-_SCAN_EDGE:])
    return any(pattern.search(piece) for piece in pieces for pattern in _SCANNERS)


def _is_secret_name(key: str) -> bool:
    return len(key) <= _MAX_PATH and _SECRET_NAME.fullmatch(key.removeprefix(".")) is not None


def _is_filled(child: object) -> bool:
    return isinstance(child, (str, bytes)) and len(child) >= 4
