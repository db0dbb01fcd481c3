"""What keeps a page in one file closed: the policy that stands in it, and its data as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy that allows this style and this script, and nothing else."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def script_json(value: Any) -> str:
    """JSON of ASCII characters that ends no element and begins none, wherever it is in HTML."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
