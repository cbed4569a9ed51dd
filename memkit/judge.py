"""An optional LLM judge on any OpenAI-compatible server, with the scale of LCC from 0 to 5 (§4.1, App. D).

Evaluations report its scores beside the exact measures; the mean-pool compressor may take them as a reward.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from memkit.config import Config
from memkit.errors import ConfigError, MemkitError

_SCORE = re.compile(r"score\s*[:=]?\s*([0-5](?:\.\d+)?)(?![\d.]*\d)", re.IGNORECASE)
MAX_REPLY = 1 << 20  # bytes


@dataclass(frozen=True)
class JudgeConfig:
    """The judge's server and model.

    ``url`` is the server's base, such as ``http://localhost:8000/v1``. A key is read from
    ``MEMKIT_JUDGE_KEY`` and sent to that server alone.
    """

    url: str
    model: str
    timeout: float = 60.0  # seconds for each question

    def __post_init__(self) -> None:
        if not re.match(r"https?://", self.url):
            raise ConfigError(f"the judge's address starts with http:// or https://, got {self.url!r}")
        if not self.model:
            raise ConfigError("name the judge's model")
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be positive, got {self.timeout}")


class Judge:
    """Grades answers to questions about a text."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._prompt = files("memkit").joinpath("judge_prompt.txt").read_text("utf-8")

    def score(self, context: str, question: str, golds: Sequence[str], answer: str) -> float:
        """A score from 0 to 5 for an answer to a question about ``context``; ``golds`` are correct answers.

        Raises `MemkitError` when the server fails or its reply holds no score.
        """
        fields = {"context": context, "question": question, "golds": "; ".join(golds), "answer": answer}
        # Not str.format: a text may hold braces.
        prompt = re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], self._prompt)
        reply = self._complete(prompt)
        score = _SCORE.search(reply)
        if not score:
            raise MemkitError(f"the judge gave no score from 0 to 5: {reply[:200]!r}")
        return float(score.group(1))

    def _complete(self, prompt: str) -> str:
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 64,
        }
        headers = {"Content-Type": "application/json"}
        if key := Config.load().judge_key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.config.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.config.timeout) as response:
                reply = json.loads(response.read(MAX_REPLY))
            return str(reply["choices"][0]["message"]["content"])
        except (urllib.error.URLError, OSError) as error:
            raise MemkitError(f"the judge at {self.config.url} cannot be asked: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise MemkitError(
                f"the judge at {self.config.url} did not answer as OpenAI's API does"
            ) from error
