"""API keys and their rate limits, for HTTP and MCP alike."""

from __future__ import annotations

import hashlib
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from memkit.bank import Bank
from memkit.bank.api_keys import ApiKey
from memkit.errors import ConfigError
from memkit.server.api_errors import ApiError, unauthorized


def authenticate(bank: Bank, authorization: str) -> tuple[ApiKey, str]:
    """The key of a header ``Authorization``, and its identifier for rate limits; 401 without a valid key."""
    kind, _, secret = authorization.partition(" ")
    secret = secret.strip() if kind.lower() == "bearer" else ""
    key = bank.keys.find(secret)
    if key is None:
        raise unauthorized()
    return key, hashlib.sha256(secret.encode()).hexdigest()[:16]


class RateLimiter:
    """Limits each key to ``a_minute`` requests per minute, in a sliding window. Raises `ConfigError` below
    1."""

    def __init__(self, a_minute: int) -> None:
        if a_minute < 1:
            raise ConfigError(f"a key may make at least 1 request a minute, got {a_minute}")
        self._most = a_minute
        self._rate = RateLimitItemPerMinute(a_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, key: str) -> dict[str, str]:
        """Count a request; returns the headers with the requests left. 429 above the limit."""
        free = self._limiter.hit(self._rate, key)
        window = self._limiter.get_window_stats(self._rate, key)
        seconds = max(1, round(window.reset_time - time.time()))
        headers = {
            "X-RateLimit-Limit": str(self._most),
            "X-RateLimit-Remaining": str(max(window.remaining, 0)),
            "X-RateLimit-Reset": str(seconds),
        }
        if not free:
            message = f"this key may make {self._most} requests a minute; try again in {seconds} s"
            raise ApiError(
                429, message, "rate_limit_exceeded", headers={**headers, "Retry-After": str(seconds)}
            )
        return headers
