"""The LLM judge against a real HTTP server that answers as OpenAI's API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, MemkitError
from memkit.evals.run import EvalConfig, evaluate
from memkit.judge import Judge, JudgeConfig
from memkit.testing import TEXT

CONTEXT = "{context} and {this}"
QUESTIONS = (("Where?", ("Keldor",)), ("Who?", ("Mira",)))


class _Server(ThreadingHTTPServer):
    reply: str = ""
    seen: list[dict[str, object]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append({"path": self.path, "key": self.headers["Authorization"], **body})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.reply.encode())

    def log_message(self, *_: object) -> None:
        pass


def _says(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


@pytest.fixture
def server() -> Iterator[_Server]:
    made = _Server(("127.0.0.1", 0), _Handler)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def _judge(server: _Server) -> Judge:
    return Judge(JudgeConfig(f"http://127.0.0.1:{server.server_port}/v1/", "grader", timeout=10))


def _scores(judge: Judge, answers: tuple[str, str]) -> tuple[float, ...]:
    pairs = zip(QUESTIONS, answers, strict=True)
    return tuple(judge.score(CONTEXT, question, golds, answer) for (question, golds), answer in pairs)


def test_scores(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_JUDGE_KEY", "secret")
    server.reply = _says("Score: 4")
    assert _scores(_judge(server), ("Keldor {answer}", "Mira")) == (4.0, 4.0)
    first = server.seen[0]
    assert (first["path"], first["key"], first["model"]) == (
        "/v1/chat/completions",
        "Bearer secret",
        "grader",
    )
    prompt = first["messages"][0]["content"]  # type: ignore[index]
    assert "{context} and {this}" in prompt
    assert "Keldor {answer}" in prompt


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (_says("I would say 9"), "no score"),
        (_says("Score: 55"), "no score"),
        ("not JSON", "OpenAI"),
        ("{}", "OpenAI"),
    ],
)
def test_useless_replies(server: _Server, reply: str, message: str) -> None:
    server.reply = reply
    with pytest.raises(MemkitError, match=message):
        _scores(_judge(server), ("a", "b"))


def test_no_server() -> None:
    with pytest.raises(MemkitError, match="cannot be asked"):
        _scores(Judge(JudgeConfig("http://127.0.0.1:9", "m", timeout=2)), ("a", "b"))


@pytest.mark.parametrize("bad", [("file:///etc/passwd", "m"), ("http://x", ""), ("http://x", "m", 0.0)])
def test_bad_settings(bad: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        JudgeConfig(*bad)


def test_the_table_has_the_judge_beside_the_other_scores(
    server: _Server, engine: TransformersEngine, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": asked}))
    server.reply = _says("Score: 2.5")
    config = EvalConfig(
        str(file), compilers=(), judge=JudgeConfig(f"http://127.0.0.1:{server.server_port}/v1", "m")
    )
    for row in evaluate(config, engine=engine)["rows"]:
        assert row["judge"] == 2.5
        assert row["contains"] is not None
