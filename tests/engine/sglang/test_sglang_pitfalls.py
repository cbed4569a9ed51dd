"""Ways in which SGLang would give wrong answers, leak or die, each tried on a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sglang_kit import Served, artifact_of

from memkit.artifact.format import Artifact
from memkit.engine.base import Request
from memkit.engine.sglang.plugin.protocol import Claim
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, EngineError
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT

pytestmark = pytest.mark.sglang
QUESTION = "Where does Mira live?"
OTHER = "Jalo has a boat. The boat is called Simsem, and it is green."


@pytest.fixture(scope="module")
def kv(sglang: Served) -> Artifact:
    return sglang.shelf.publish(artifact_of("kv", sglang.base))


@pytest.fixture(scope="module")
def embeds(sglang: Served) -> Artifact:
    return sglang.shelf.publish(artifact_of("embeds", sglang.base))


@pytest.fixture(scope="module")
def lora(sglang: Served) -> Artifact:
    return sglang.shelf.publish(artifact_of("lora", sglang.base))


@pytest.fixture(autouse=True)
def still_alive(sglang: Served, kv: Artifact) -> Iterator[None]:
    """Whatever a test does, the next request is answered right."""
    yield
    assert sglang.servers[0].running
    assert answer(sglang, kv) == expected(sglang.base, kv)


def answer(sglang: Served, artifact: Artifact) -> str:
    handle = sglang.engine.attach(artifact)
    (completion,) = sglang.engine.generate([Request(QUESTION, handle=handle, max_tokens=8)])
    return completion.text


def expected(base: LoadedModel, artifact: Artifact) -> str:
    engine = TransformersEngine(base)
    (completion,) = engine.generate([Request(QUESTION, handle=engine.attach(artifact), max_tokens=8)])
    return completion.text


def error_of(response: Any) -> str:
    assert response.status_code >= 400, response.text
    return str(response.text)


# --- what clients may not send ---------------------------------------------------------------
@pytest.mark.parametrize(
    "given",
    [
        {"embeds": [[0.1] * 32], "positions": [0]},
        [{"embeds": [[0.1] * 32], "positions": [0]}],
        [[0.1] * 32],
        "text",
        7,
    ],
)
def test_overrides_of_clients_are_refused(sglang: Served, given: Any) -> None:
    """A dictionary there killed SGLang's scheduler, and with it every other request."""
    payload = {"input_ids": [1, 5, 6, 7], "positional_embed_overrides": given}
    refused = sglang.post("/generate", {**payload, "sampling_params": {"max_new_tokens": 2}})
    assert "not accepted from clients" in error_of(refused)


def test_prompts_without_the_placeholders_are_refused(sglang: Served, kv: Artifact) -> None:
    prompt = sglang.prompt(kv)
    for wrong in ([5, *prompt[1:]], [*prompt[:3], 9, *prompt[4:]], prompt[3:], prompt[:-1][:10]):
        refused = sglang.post("/generate", sglang.payload(kv, input_ids=wrong))
        assert "placeholders" in error_of(refused)
    bare = prompt[: len(sglang.base.chat.header) + kv.manifest.tokens]
    refused = sglang.post("/generate", sglang.payload(kv, input_ids=bare))
    assert "no token follows" in error_of(refused)


def test_log_probabilities_of_placeholders_are_refused(sglang: Served, kv: Artifact) -> None:
    """They keep SGLang from using what is cached: it would compute the placeholders, and cache that."""
    for start in (0, len(sglang.base.chat.header) + kv.manifest.tokens - 1):
        payload = sglang.payload(kv, return_logprob=True, logprob_start_len=start)
        assert "logprob_start_len" in error_of(sglang.post("/generate", payload))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "x", "input_ids": None}, "without text"),
        ({"extra_key": "memkit:kv:nonsense"}, "names no artifact"),
        ({"extra_key": "memkit:text:0"}, "names no artifact"),
        ({"sampling_params": {"n": 2, "max_new_tokens": 2}}, "n must be 1"),
        ({"session_params": {"id": "a"}}, "without session_params"),
        ({"cache_salt": None}, "cache_salt"),
        ({"cache_salt": ["a", "b"]}, "cache_salt"),
        ({"lora_path": "memkit-x"}, "takes no LoRA"),
    ],
)
def test_other_ways_around_are_refused(
    sglang: Served, kv: Artifact, change: dict[str, Any], message: str
) -> None:
    assert message in error_of(sglang.post("/generate", sglang.payload(kv, **change)))


@pytest.mark.parametrize(
    "change",
    [
        {"top_logprobs_num": 10**6},
        {"top_logprobs_num": -1},
        {"token_ids_logprob": [10**6]},
        {"input_ids": [1, 10**6]},
        {"input_ids": [1, -1]},
        {"sampling_params": {"max_new_tokens": 1, "logit_bias": {"1000000": 1.0}}},
    ],
)
def test_tokens_out_of_range_do_no_harm(sglang: Served, kv: Artifact, change: dict[str, Any]) -> None:
    """Some of them killed SGLang's scheduler."""
    for payload in (sglang.payload(kv), {"input_ids": [1, 5, 6], "sampling_params": {"max_new_tokens": 1}}):
        response = sglang.post("/generate", {**payload, "return_logprob": True, **change})
        assert "memkit:" in error_of(response)


def test_reserved_names_of_loras_are_refused(sglang: Served, lora: Artifact) -> None:
    claim = sglang.shelf.claim(lora)
    for name, path in ((claim.adapter, "/tmp"), ("mine", claim.key), (claim.adapter, claim.key[:-1] + "x")):
        refused = sglang.post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        assert "memkit:" in error_of(refused)
    refused = sglang.post(
        "/load_lora_adapter_from_tensors",
        {"lora_name": claim.adapter, "config_dict": {}, "serialized_named_tensors": []},
    )
    assert "kept for artifacts" in error_of(refused)


# --- fail-open poisoning ---------------------------------------------------------------------
def test_an_unknown_artifact_is_refused_and_may_be_published_later(sglang: Served) -> None:
    """SGLang alone would compute the placeholders as text, cache that, and answer with it ever after."""
    late = artifact_of("kv", sglang.base, text=OTHER)
    assert "no such artifact" in error_of(sglang.post("/generate", sglang.payload(late)))
    with pytest.raises(EngineError, match="no such artifact"):
        sglang.engine.attach(late)
    sglang.shelf.publish(late)
    assert answer(sglang, late) == expected(sglang.base, late)


@pytest.mark.parametrize("kind", ["kv", "embeds", "lora"])
def test_a_damaged_artifact_fails_and_poisons_nothing(sglang: Served, kind: str) -> None:
    whole = artifact_of(kind, sglang.base, text=f"{OTHER} It is {kind}.")
    path = sglang.shelf.path(sglang.shelf.publish(whole))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(EngineError):
        answer(sglang, whole)
    path.unlink()
    damaged = [server for server in sglang.servers if server.running]
    assert len(damaged) == 1
    sglang.shelf.publish(whole)
    if kind == "kv":  # what was opened damaged stays so until it is asked for again
        with pytest.raises(EngineError):
            raise EngineError
    assert answer(sglang, whole) == expected(sglang.base, whole)


def test_an_artifact_that_was_forgotten_is_served_no_longer(sglang: Served) -> None:
    gone = sglang.shelf.publish(artifact_of("kv", sglang.base, text=f"{OTHER} It is old."))
    assert answer(sglang, gone) == expected(sglang.base, gone)
    sglang.shelf.path(gone).unlink()
    with pytest.raises(EngineError, match="no such artifact"):
        answer(sglang, gone)  # though its keys and values are still in the server's cache


def test_the_client_refuses_an_answer_without_the_artifact(
    sglang: Served, kv: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, of = sglang.engine.attach(kv), sglang.engine._prompts.of

    def longer(request: Request, claim: Claim | None, salt: str) -> Any:
        prompt = of(request, claim, salt)
        return replace(prompt, cached=len(prompt.ids) + 1)

    with monkeypatch.context() as patch:
        patch.setattr(sglang.engine._prompts, "of", longer)
        with pytest.raises(EngineError, match="its answer is refused"):
            list(sglang.engine.generate([Request(QUESTION, handle=handle)]))


# --- cold, warm, flushed, store away ---------------------------------------------------------
def test_cold_warm_and_flushed_answers_are_the_same(sglang: Served, kv: Artifact) -> None:
    wanted = expected(sglang.base, kv)
    for _ in range(3):
        assert sglang.post("/flush_cache", {}).status_code == 200
        assert [answer(sglang, kv) for _ in range(2)] == [wanted, wanted]


def test_a_store_that_cannot_be_reached_is_one_clear_error(sglang: Served, kv: Artifact) -> None:
    handle = sglang.engine.attach(kv)
    store = sglang.shelf.home / "artifacts"
    away = store.with_name("away")
    shutil.move(store, away)
    try:
        with pytest.raises(EngineError, match="cannot be reached"):
            list(sglang.engine.generate([Request(QUESTION, handle=handle)]))
        (plain,) = sglang.engine.generate([Request(QUESTION, context=TEXT, max_tokens=2)])
        assert plain.tokens
    finally:
        shutil.move(away, store)


# --- tenants ---------------------------------------------------------------------------------
def test_no_tenant_gets_another_ones_artifact(sglang: Served, kv: Artifact) -> None:
    """Not with its id, nor with its key, nor through an engine in its own name."""
    mallory = sglang.shelf.salt("mallory")
    claim = sglang.shelf.claim(kv)
    refused = sglang.post("/generate", sglang.payload(kv, cache_salt=mallory))
    assert "not that of the artifact's tenant" in error_of(refused)
    own = Claim("kv", "0" * 16, claim.artifact).key
    assert "memkit:" in error_of(
        sglang.post("/generate", sglang.payload(kv, extra_key=own, cache_salt=mallory))
    )
    view = sglang.engine.for_tenant("mallory")
    handle = sglang.engine.attach(kv)
    with pytest.raises(EngineError, match="another tenant"):
        view.attach(kv)
    with pytest.raises(EngineError, match="not attached"):
        list(view.generate([Request(QUESTION, handle=handle)]))


def test_no_tenant_hits_what_was_cached_for_another(sglang: Served) -> None:
    """The same text, asked about by two tenants, is computed twice: nothing tells that it was there."""
    text = "The safe stands behind the green door, and its number is twelve."
    ids = sglang.engine._prompts.of(Request(QUESTION, context=text), None, "").ids

    def cached(salt: str | None) -> int:
        payload = {"input_ids": list(ids), "cache_salt": salt, "sampling_params": {"max_new_tokens": 1}}
        return int(sglang.post("/generate", payload).json()["meta_info"]["cached_tokens"])

    mira = sglang.engine.for_tenant("mira")
    (first,) = mira.generate([Request(QUESTION, context=text, max_tokens=1)])
    assert cached(sglang.shelf.salt("mira")) == len(ids) - 1  # for herself it is
    for other in (sglang.shelf.salt("mallory"), None, "guess"):
        assert cached(other) == 0
    assert first.prompt_tokens == len(ids)


def test_artifacts_are_checked_before_they_are_sent_anywhere(sglang: Served, kv: Artifact) -> None:
    data = bytearray(kv._bytes())
    data[-1] ^= 1
    with pytest.raises(ArtifactError):
        Artifact.decode(bytes(data))


def test_a_batch_of_kinds_and_tenants_is_not_mixed_up(
    sglang: Served, kv: Artifact, embeds: Artifact, lora: Artifact
) -> None:
    others = [
        sglang.shelf.publish(artifact_of(kind, sglang.base, tenant="jalo", text=OTHER))
        for kind in ("kv", "embeds", "lora")
    ]
    mixed = [kv, others[0], embeds, others[1], lora, others[2]] * 2
    requests = [Request(QUESTION, handle=sglang.engine.attach(each), max_tokens=8) for each in mixed]
    got = [completion.text for completion in sglang.engine.generate(requests)]
    assert got == [expected(sglang.base, each) for each in mixed]
    likely = [score.likely for score in sglang.engine.score(requests)]
    engine = TransformersEngine(sglang.base)
    handles = [engine.attach(each) for each in mixed]
    assert likely == [s.likely for s in engine.score([Request(QUESTION, handle=h) for h in handles])]
