"""What the tests of the server share: its errors."""

from __future__ import annotations

from typing import Any

import httpx2

TOKEN = "a-token-of-the-scraper"


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code", "request_id"}
    assert found["request_id"] == answer.headers["x-request-id"]
    return found
