"""``/v1/embeddings``, asked by OpenAI's own client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai

from memkit.bench.http_server import LiveServer, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.router.embedders import LexicalEmbedder
from memkit.server.config import ServerConfig
from memkit.server.routes.embeddings import MAX_INPUTS
from memkit.server.schemas import MAX_QUESTION

MODEL, TEXTS = "lexical:2048", ["Mira lives in Lima.", "Rolan keeps bees in Tarv."]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    config = ServerConfig(tmp_path_factory.mktemp("server") / "bank", "tiny", rate=100_000)
    with served(config, engine) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


def test_vectors_are_the_embedders_own(client: openai.OpenAI, engine: TransformersEngine) -> None:
    """The client asks for base64 unless it is told otherwise, and decodes it."""
    wanted = LexicalEmbedder().passages(TEXTS)
    forms: list[Any] = [openai.omit, "float"]
    for form in forms:
        made = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format=form)
        assert [each.index for each in made.data] == [0, 1]
        np.testing.assert_array_equal(np.array([each.embedding for each in made.data], "f4"), wanted)
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(engine.count_tokens, TEXTS))


def test_questions_have_vectors_of_their_own(client: openai.OpenAI) -> None:
    asked = client.embeddings.create(
        model=MODEL, input="Where does Mira live?", dimensions=2048, extra_body={"input_type": "query"}
    )
    wanted = LexicalEmbedder().question("Where does Mira live?")
    np.testing.assert_allclose(asked.data[0].embedding, wanted, rtol=1e-6)


def test_base64_is_little_endian(server: LiveServer) -> None:
    with server.client() as client:
        body = {"model": MODEL, "input": TEXTS[0], "encoding_format": "base64", "user": "mira"}
        answer = client.post("/v1/embeddings", json=body)
    made = answer.json()
    vector = np.frombuffer(base64.b64decode(made["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, LexicalEmbedder().passages(TEXTS[:1])[0])
    assert made["memkit"] == {"ignored": ["user"]}
    assert "x-ratelimit-remaining" in answer.headers


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"input": ""}, "input", "text 0 is empty"),
        ({"input": [TEXTS[0], "\n "]}, "input", "text 1 is empty"),
        ({"input": []}, "input", "these are 0"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input", "1 to 1,024 texts at once"),
        ({"input": "a" * (MAX_QUESTION + 1)}, "input", "the most is 100,000"),
        ({"input": [1, 2, 3]}, "input", "send texts, not tokens"),
        ({"input": [[1, 2], [3]]}, "input", "send texts, not tokens"),
        ({"dimensions": 256}, "dimensions", "2048 dimensions"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"extra_body": {"input_type": "image"}}, "input_type", "'passage' or 'query'"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: openai.OpenAI, more: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.embeddings.create(**{"model": MODEL, "input": TEXTS, **more})
    assert caught.value.param == param


def test_another_model_and_a_stranger(client: openai.OpenAI, server: LiveServer) -> None:
    with pytest.raises(openai.NotFoundError, match="the embedder here is 'lexical:2048'"):
        client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    stranger = openai.OpenAI(api_key="mk_no_key", base_url=f"{server.url}/v1", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.embeddings.create(model=MODEL, input=TEXTS)


def test_requests_are_counted(tmp_path: Path, engine: TransformersEngine) -> None:
    with served(ServerConfig(tmp_path / "bank", "tiny", rate=1), engine) as running:
        key = running.key("acme")
        with openai.OpenAI(api_key=key, base_url=f"{running.url}/v1", max_retries=0) as client:
            client.embeddings.create(model=MODEL, input=TEXTS)
            with pytest.raises(openai.RateLimitError):
                client.embeddings.create(model=MODEL, input=TEXTS)


def test_in_front_of_an_upstream_no_model_is_loaded_for_it(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path / "bank", "no such model", upstream="http://127.0.0.1:1/v1")
    with served(config) as running, running.client() as client:
        answer = client.post("/v1/embeddings", json={"model": MODEL, "input": "a b c"})
    assert (answer.status_code, answer.json()["usage"]["total_tokens"]) == (200, 2)
