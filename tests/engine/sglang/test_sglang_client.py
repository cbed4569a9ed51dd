"""The client of SGLang servers against servers of a few lines: failures, retries, room and adapters."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sglang_kit import artifact_of

from memkit._version import __version__
from memkit.artifact.format import Artifact
from memkit.config import Config
from memkit.engine.base import Completion, Request
from memkit.engine.factory import create_engine
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.sglang.health import version_of
from memkit.engine.sglang.plugin.header import make_secret
from memkit.engine.sglang.plugin.protocol import salt, tenant_folder
from memkit.engine.sglang.workers import SGLangConfig, urls_of
from memkit.errors import ConfigError, EngineError, FingerprintError, MissingExtraError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel, tokenizer_digest

SECRET = b"0123456789abcdef"


class Fake:
    """A server that says of itself what a fit one says, and answers every prompt with the token 7 twice."""

    def __init__(self, base: LoadedModel) -> None:
        self.base, self.calls = base, list[tuple[str, Any]]()
        self.info: dict[str, Any] = {
            "memkit": __version__,
            "sglang": "0.5.23",
            "fingerprint": base.fingerprint,
            "vocabulary": tokenizer_digest(base.tokenizer),
            "problem": "",
            "starting": False,
            "model": "tiny",
            "dtype": "float32",
            "page_size": 1,
            "window": 512,
            "header": list(base.chat.header),
            "end": base.chat.end,
            "hidden_states": False,
            "lora": True,
            "max_loaded_loras": 2,
            "vocabulary_size": len(base.tokenizer),
        }
        self.routes: dict[str, Callable[[Any], tuple[int, Any]]] = {
            "/memkit": lambda _: (200, self.info),
            "/memkit/artifact": lambda _: (200, {"tokens": 1}),
            "/generate": self.generate,
            "/load_lora_adapter": lambda _: (200, {"success": True}),
            "/unload_lora_adapter": lambda _: (200, {"success": True}),
        }
        self.stopped = False
        self.breaks_after: int | None = None  # pieces of an answer
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def generate(self, asked: Any) -> tuple[int, Any]:
        about = {"cached_tokens": 500, "finish_reason": None}
        ends = {**about, "finish_reason": {"type": "stop", "matched": self.base.chat.end}}
        return 200, [
            {"output_ids": [7], "meta_info": about},
            {"output_ids": [7, 7], "meta_info": about},
            {"output_ids": [7, 7, self.base.chat.end], "meta_info": ends},
        ]

    def of(self, path: str) -> list[Any]:
        """What was sent to a path."""
        return [asked for called, asked in self.calls if called == path]

    def stop(self) -> None:
        """Answer no more; may be called again."""
        if not self.stopped:
            self.stopped = True
            self.server.shutdown()
            self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, asked: Any) -> None:
                fake.calls.append((self.path, asked))
                known = fake.routes.get(self.path)
                status, answer = known(asked) if known else (404, {"detail": "Not Found"})
                events = isinstance(answer, list)
                parts = [f"data: {json.dumps(a)}\n\n" for a in answer] if events else [json.dumps(answer)]
                breaks_after = fake.breaks_after if events else None  # as it was when the answer began
                self.send_response(status)
                self.end_headers()
                for number, part in enumerate(parts):
                    if number == breaks_after:
                        return
                    self.wfile.write(part.encode())

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler


@pytest.fixture
def fakes(tiny: LoadedModel) -> Iterator[list[Fake]]:
    made = [Fake(tiny), Fake(tiny)]
    yield made
    for each in made:
        each.stop()


@contextmanager
def connected(*fakes: Fake, **options: Any) -> Iterator[SGLangEngine]:
    urls = tuple(fake.url for fake in fakes)
    engine = SGLangEngine(SGLangConfig(urls, **options), fakes[0].base.name, secret=SECRET)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def lora(tiny: LoadedModel) -> list[Artifact]:
    made = artifact_of("lora", tiny)
    manifests = [replace(made.manifest, seed=seed) for seed in range(4)]
    return [Artifact.decode(made.with_manifest(manifest)) for manifest in manifests]


# --- servers that cannot be used -------------------------------------------------------------
def test_a_server_that_is_down(fakes: list[Fake]) -> None:
    fakes[0].stop()
    with connected(fakes[0], attempts=2) as engine, pytest.raises(EngineError, match="does not answer"):
        list(engine.generate([Request("?")]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "the bank was prepared for another model"}, "prepared for another model"),
        ({"vocabulary": "other"}, "another tokenizer"),
        ({"header": [1, 2]}, "another tokenizer"),
    ],
)
def test_a_server_of_another_model(fakes: list[Fake], change: dict[str, Any], message: str) -> None:
    fakes[0].info |= change
    with connected(fakes[0]) as engine:
        with pytest.raises(EngineError, match=message):
            list(engine.generate([Request("?")]))
        fakes[0].info = {**fakes[1].info}
        assert [c.tokens for c in engine.generate([Request("?")])] == [2]  # the next request works


def test_servers_must_run_one_model(fakes: list[Fake]) -> None:
    fakes[1].info["fingerprint"] = "f" * 64
    with connected(*fakes) as engine:
        engine.server(fakes[0].url)
        with pytest.raises(EngineError, match="was expected; check the URL"):
            engine.server(fakes[1].url)
    with connected(fakes[1]) as engine, pytest.raises(FingerprintError):
        engine.attach(artifact_of("embeds", fakes[0].base))


def test_a_server_without_the_plugin_or_too_old(fakes: list[Fake]) -> None:
    del fakes[0].routes["/memkit"]
    with connected(fakes[0]) as engine, pytest.raises(EngineError, match="is no SGLang server"):
        _ = engine.window
    for version, message in (("0.5.22", "needs 0.5.23"), ("0.5.23.post1", "without memkit's plugin")):
        fakes[0].routes["/server_info"] = lambda _, version=version: (200, {"version": version})  # type: ignore[misc] # a default binds it
        with connected(fakes[0]) as engine, pytest.raises(EngineError, match=message):
            _ = engine.window
    del fakes[1].info["page_size"]
    with connected(fakes[1]) as engine, pytest.raises(EngineError, match="of another memkit"):
        _ = engine.window


def test_a_server_that_is_starting_is_waited_for(fakes: list[Fake]) -> None:
    fakes[0].info |= {"starting": True, "problem": "still checking"}
    threading.Timer(0.5, fakes[0].info.update, [{"starting": False, "problem": ""}]).start()
    with connected(fakes[0]) as engine:
        assert engine.fingerprint == fakes[0].base.fingerprint


def test_versions_are_compared_as_numbers() -> None:
    assert version_of("0.5.23") == version_of("0.5.23rc1") == (0, 5, 23)
    assert version_of("0.10.0") > version_of("0.5.23")
    assert version_of("dev") == ()


# --- failures on the way ---------------------------------------------------------------------
def test_another_server_does_what_one_could_not(fakes: list[Fake]) -> None:
    with connected(*fakes) as engine:
        assert len(list(engine.generate([Request(str(i)) for i in range(8)]))) == 8
        fakes[0].routes["/generate"] = lambda _: (500, {"error": {"message": "died"}})
        assert [c.tokens for c in engine.generate([Request(str(i)) for i in range(8)])] == [2] * 8
        fakes[0].stop()
        assert [c.tokens for c in engine.generate([Request(str(i)) for i in range(8)])] == [2] * 8


def test_a_refusal_is_not_tried_elsewhere(fakes: list[Fake]) -> None:
    for fake in fakes:
        fake.routes["/generate"] = lambda _: (400, {"error": {"message": "memkit: no"}})
    with connected(*fakes) as engine, pytest.raises(EngineError, match="refused: memkit: no"):
        list(engine.generate([Request("?")]))
    assert sum(len(fake.of("/generate")) for fake in fakes) == 1


def test_an_answer_that_breaks_off_is_finished_elsewhere(fakes: list[Fake]) -> None:
    """Behind the tokens that came, and nothing is said twice."""
    fakes[0].breaks_after = fakes[1].breaks_after = 1
    with connected(*fakes) as engine:
        stream = engine.stream(Request("?", max_tokens=9))
        pieces = [next(stream)]
        fakes[0].breaks_after = fakes[1].breaks_after = None
        *rest, last = stream
    assert isinstance(last, Completion)
    assert "".join(map(str, [*pieces, *rest])) == last.text
    assert (last.tokens, last.stopped) == (3, True)
    first, second = (asked for fake in fakes for asked in fake.of("/generate"))
    if len(first["input_ids"]) > len(second["input_ids"]):
        first, second = second, first
    assert second["input_ids"] == [*first["input_ids"], 7]
    assert second["sampling_params"]["max_new_tokens"] == 8


def test_an_aborted_answer_is_tried_again(fakes: list[Fake]) -> None:
    reason = {"type": "abort", "status_code": 503, "message": "External KV cache load failed"}
    aborted = [{"output_ids": [], "meta_info": {"cached_tokens": 500, "finish_reason": reason}}]
    good = fakes[0].generate
    answers = iter([aborted, aborted])
    fakes[0].routes["/generate"] = lambda asked: (
        (200, found) if (found := next(answers, None)) else good(asked)
    )
    with connected(fakes[0]) as engine:
        assert [c.tokens for c in engine.generate([Request("?")])] == [2]


def test_too_many_requests_are_refused_and_the_others_wait(fakes: list[Fake]) -> None:
    open_ = threading.Event()

    def slow(asked: Any) -> tuple[int, Any]:
        open_.wait(10)
        return Fake.generate(fakes[0], asked)

    fakes[0].routes["/generate"] = slow
    with connected(fakes[0], in_flight=1, waiting=1, wait=5.0) as engine:
        done = list[int]()

        def ask() -> None:
            done.extend(c.tokens for c in engine.generate([Request("?")]))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while engine._workers._waiting < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(EngineError, match="1 requests wait for SGLang already"):
            list(engine.generate([Request("?")]))
        open_.set()
        for thread in threads:
            thread.join(10)
        assert done == [2, 2]


def test_waiting_has_an_end(fakes: list[Fake]) -> None:
    def slow(asked: Any) -> tuple[int, Any]:
        time.sleep(1.5)
        return Fake.generate(fakes[0], asked)

    fakes[0].routes["/generate"] = slow
    with connected(fakes[0], in_flight=1, wait=0.2) as engine:
        _ = engine.window
        thread = threading.Thread(target=lambda: list(engine.generate([Request("?")])))
        thread.start()
        time.sleep(0.3)
        with pytest.raises(EngineError, match=r"no room for 0\.2 s"):
            list(engine.generate([Request("?")]))
        thread.join(10)


# --- LoRAs -----------------------------------------------------------------------------------
def test_no_more_loras_are_loaded_than_a_server_takes(fakes: list[Fake], lora: list[Artifact]) -> None:
    with connected(*fakes) as engine:
        handles = [engine.attach(artifact) for artifact in lora]
        for fake in fakes:  # each was loaded on every server
            assert len(fake.of("/load_lora_adapter")) == 4
            assert len(fake.of("/unload_lora_adapter")) == 2
        assert [c.tokens for c in engine.generate([Request("?", handle=h) for h in handles])] == [2] * 4
        for fake in fakes:
            worker = next(w for w in engine._workers.all if w.url == fake.url)
            loads, unloads = (len(fake.of(f"/{word}_lora_adapter")) for word in ("load", "unload"))
            assert loads - unloads == len(engine._loras.loaded(worker)) <= 2
        for handle in handles:
            engine.detach(handle)
        assert all(engine._loras.loaded(worker) == [] for worker in engine._workers.all)


def test_a_lora_that_a_restart_has_lost_is_loaded_again(fakes: list[Fake], lora: list[Artifact]) -> None:
    with connected(fakes[0]) as engine:
        handle = engine.attach(lora[0])
        lost = iter([(400, {"error": {"message": "Got LoRA adapter that has never been loaded: x"}})])
        fakes[0].routes["/generate"] = lambda asked: next(lost, None) or Fake.generate(fakes[0], asked)
        assert [c.tokens for c in engine.generate([Request("?", handle=handle)])] == [2]
        assert len(fakes[0].of("/load_lora_adapter")) == 2


def test_a_server_without_loras(fakes: list[Fake], lora: list[Artifact]) -> None:
    fakes[0].info["lora"] = False
    with connected(fakes[0]) as engine, pytest.raises(EngineError, match="--lora-rank"):
        engine.attach(lora[0])


# --- tenants ---------------------------------------------------------------------------------
def test_every_user_of_a_memory_asks_in_their_own_name(fakes: list[Fake], home: Path) -> None:
    with connected(fakes[0]) as engine, Memory(home, fakes[0].base, "mira", engine=engine) as mira:
        asked = [mira, mira.for_user("jalo"), mira.for_user("jalo").for_user("tovin")]
        for memory, name in zip(asked, ("mira", "jalo", "tovin"), strict=True):
            memory.ask("Where does Mira live?")
            payload = fakes[0].of("/generate")[-1]
            assert payload["cache_salt"] == salt(SECRET, tenant_folder(name))
            for view in (memory.engine, memory.router._engine()):
                assert isinstance(view, SGLangEngine)
                assert view._tenant == tenant_folder(name)
        assert mira.local is asked[2].local


# --- choosing --------------------------------------------------------------------------------
def test_an_engine_is_chosen_in_words_or_by_the_environment(
    fakes: list[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fakes[0].base.name
    assert create_engine(Config.load(model=name)) is None
    assert create_engine(Config.load(model=name, engine="transformers")) is None
    make_secret(tmp_path / "sglang")
    chosen = create_engine(Config.load(home=tmp_path, model=name, sglang_urls=[fakes[0].url]))
    assert isinstance(chosen, SGLangEngine)
    chosen.close()
    for named, urls, message in (
        ("fast", None, "one of transformers"),
        ("sglang", None, "MEMKIT_SGLANG_URLS"),
        ("transformers", ["http://x"], "--url belongs"),
        ("sglang", ["x"], "starts with http"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_engine(Config.load(home=tmp_path, model=name, engine=named, sglang_urls=urls))
    monkeypatch.setenv("MEMKIT_ENGINE", "sglang")
    monkeypatch.setenv("MEMKIT_SGLANG_URLS", f"{fakes[0].url}, {fakes[1].url}/")
    chosen = create_engine(Config.load(home=tmp_path, model=name))
    assert isinstance(chosen, SGLangEngine)
    assert chosen.config.urls == (fakes[0].url, fakes[1].url)
    chosen.close()
    with pytest.raises(ConfigError, match="secret"):
        create_engine(Config.load(home=tmp_path / "other", model=name))


@pytest.mark.parametrize(
    "change",
    [
        {"urls": ()},
        {"urls": ("http://a", "http://a/")},
        {"in_flight": 0},
        {"waiting": -1},
        {"timeout": 0},
        {"top": 0},
    ],
)
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        SGLangConfig(**{"urls": ("http://a",), **change})


def test_without_httpx(fakes: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"memkit-llm\[sglang\]"):
        SGLangEngine(fakes[0].url, fakes[0].base.name, secret=SECRET)


def test_urls_of_a_list() -> None:
    assert urls_of(" http://a , http://b ,") == ("http://a", "http://b")
