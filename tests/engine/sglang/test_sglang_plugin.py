"""The parts of an SGLang server's plugin that need no SGLang: names, files, pages and admission."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang_kit import Shelf, artifact_of, embeds_artifact

from memkit.artifact.format import Artifact
from memkit.bank import Bank
from memkit.bank.artifact_store import name_of
from memkit.document import Document
from memkit.engine.entropy import entropy_of_top
from memkit.engine.sglang.plugin.artifact_files import Artifacts, LocalFiles, RemoteFiles, files_of
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.fingerprint import fingerprint_at
from memkit.engine.sglang.plugin.header import Header, make_secret, read_secret, write
from memkit.engine.sglang.plugin.kv_pages import Pages, Share, heads_of, require_pooled
from memkit.engine.sglang.plugin.lora_adapters import Adapters
from memkit.engine.sglang.plugin.protocol import Claim, page_hashes, salt, tenant_folder
from memkit.engine.sglang.plugin.request_checks import RequestChecks, check_harmless, override_field
from memkit.engine.sglang.plugin.server_args import ServerFlags, command
from memkit.engine.transformers import kv_cache
from memkit.errors import ArtifactError, BankError, ConfigError, EngineError, FingerprintError, ModelError
from memkit.models.loading import LoadedModel, tokenizer_digest
from memkit.testing import TEXT

SECRET = b"0123456789abcdef"


@pytest.fixture(scope="module")
def shelf(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf.of(tmp_path_factory.mktemp("shelf"), tiny)


@pytest.fixture(scope="module")
def memory(tiny: LoadedModel, shelf: Shelf) -> Artifact:
    return shelf.publish(artifact_of("kv", tiny))


@pytest.fixture
def prefix(shelf: Shelf) -> Header:
    return Header.open(shelf.config.prefix)


@pytest.fixture
def artifacts(shelf: Shelf) -> Artifacts:
    return Artifacts(files_of(shelf.config), 1 << 30)


# --- names -----------------------------------------------------------------------------------
def test_page_hashes_are_those_of_sglang() -> None:
    """As SGLang 0.5.23 gives them; the linker compares with the SGLang that it runs in."""
    ids = [1, 2, 70000, 4, 5]
    assert page_hashes(ids, 2, None, None) == [
        "34fb5c825de7ca4aea6e712f19d439c1da0c92c37b423936c5f618545ca4fa1f",
        "792df2c6dd9f4a49e690adbb60512cc9328475290366d6f7031fb42bb0bbc8a7",
    ]
    assert page_hashes(ids, 2, "memkit:kv:x", "salt")[1] == (
        "d4573b8da75ba0dd769b7232ae0dd695a1ddb0bd89b176d4c81f38fc8d68fc41"
    )
    assert page_hashes(ids, 2, None, "ä")[0] == (
        "1351a66781617e146e5893418f65f1ce10f0f9a7c8ec8fc8dbc4cbcb208e3f30"
    )
    assert page_hashes([1], 2, None, None) == []


def test_claims_are_read_as_they_are_written() -> None:
    claim = Claim("kv", tenant_folder("mira"), "a" * 64)
    assert Claim.parse(claim.key) == claim
    assert Claim.parse(None) is None
    assert Claim.parse("somebody-else's") is None
    lora = Claim("lora", tenant_folder("mira"), "b" * 64)
    assert Claim.parse(lora.key + "f00dfeed") == lora  # as SGLang's scheduler sees it
    for wrong in (claim.key + "x", claim.key[:-1], "memkit:", "memkit:text:" + claim.key[10:]):
        with pytest.raises(EngineError):
            Claim.parse(wrong)
    with pytest.raises(ValueError, match="no artifact"):
        Claim("kv", "../../etc", "a" * 64)


@given(
    st.text(min_size=1, max_size=40).filter(
        lambda text: text.encode(errors="replace") == text.encode("utf-8", "surrogatepass")
    )
)
def test_files_are_called_as_in_the_bank(tenant: str) -> None:
    assert Claim("kv", tenant_folder(tenant), "a" * 64).file == name_of(tenant, "a" * 64)


def test_salts_tell_tenants_apart() -> None:
    found = {salt(secret, tenant_folder(t)) for secret in (SECRET, b"x" * 16) for t in ("mira", "jalo")}
    assert len(found) == 4


# --- what a server is given ------------------------------------------------------------------
def test_a_header_is_written_once_and_read_back(
    tiny: LoadedModel, shelf: Shelf, prefix: Header, tmp_path: Path
) -> None:
    assert prefix.ids == tiny.chat.header
    assert (prefix.fingerprint, prefix.end) == (tiny.fingerprint, tiny.chat.end)
    read = kv_cache.prefill(tiny.model, list(tiny.chat.header))
    assert torch.equal(prefix.keys, torch.cat(read.keys))
    path = Path(shelf.config.prefix)
    before = path.stat().st_mtime_ns
    assert write(tiny, path.parent) == path
    assert path.stat().st_mtime_ns == before
    other = tmp_path / "other.mka"
    other.write_bytes(embeds_artifact(tiny, TEXT, "mira")._bytes())
    with pytest.raises(ArtifactError, match="holds no header"):
        Header.open(other)
    with pytest.raises(ArtifactError, match="cannot read"):
        Header.open(tmp_path / "absent.mka")


def test_a_secret_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = make_secret(tmp_path / "sglang")
    first = read_secret(path)
    assert read_secret(make_secret(tmp_path / "sglang")) == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="at least 16"):
        read_secret(path)
    with pytest.raises(ConfigError, match="sglang-args makes it"):
        read_secret(tmp_path / "none")


def test_the_configuration_is_checked(shelf: Shelf) -> None:
    good = asdict(shelf.config)
    assert PluginConfig.of(good) == shelf.config
    for change in ({"artifacts": ""}, {"capacity": 0}, {"capacity": True}, {"artifacts": "s3://bucket"}):
        with pytest.raises(ValueError, match=r"must be|need a folder"):
            PluginConfig.of({**good, **change})
    with pytest.raises(ValueError, match="unknown key 'nonsense'"):
        PluginConfig.of({**good, "nonsense": 1})
    with pytest.raises(ValueError, match="incomplete"):
        PluginConfig.of({"artifacts": "x"})
    server = SimpleNamespace(unified_cache_external_linker_config=shelf.config.flag())
    assert PluginConfig.of_server(server) == shelf.config
    assert PluginConfig.of_server(SimpleNamespace()) is None


def test_flags_name_what_a_server_needs(shelf: Shelf) -> None:
    words = ServerFlags(page=16, lora_rank=8).of("model", shelf.config, "bfloat16")
    line = command(words)
    assert "--page-size 16" in line
    assert "--enable-unified-cache-external-linker" in words
    assert "--max-lora-rank 8" in line
    assert "--enable-lora" not in ServerFlags().of("model", shelf.config, "bfloat16")
    wrongs: list[dict[str, Any]] = [{"page": 0}, {"lora_rank": -1}, {"batched": 40}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be"):
            ServerFlags(**wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprints_are_found_without_loading(tiny_model_folder: Path, dtype: torch.dtype) -> None:
    from memkit.models.loading import load

    base = load(str(tiny_model_folder), dtype=str(dtype).removeprefix("torch."))
    found = fingerprint_at(str(tiny_model_folder), dtype)
    assert found == (base.fingerprint, tokenizer_digest(base.tokenizer))
    with pytest.raises(ModelError, match="this server runs"):
        fingerprint_at(str(tiny_model_folder), torch.float16)


# --- files -----------------------------------------------------------------------------------
def test_a_server_finds_what_a_bank_published(tiny: LoadedModel, home: Path) -> None:
    made = artifact_of("kv", tiny)
    with Bank(home) as bank:
        vector = torch.ones(1, 4).numpy()
        from memkit.document import Span

        info = bank.remember("mira", Document(TEXT), [Span(0, 4)], vector)
        bank.publish("mira", info.id, bytes(made._bytes()))
        store = Artifacts(LocalFiles(home / "artifacts"), 1 << 30)
        claim = Claim("kv", tenant_folder("mira"), made.id)
        assert store.get(claim, tiny.fingerprint, verify=True).id == made.id
        bank.forget("mira")
        with pytest.raises(ArtifactError, match="no such artifact"):
            store.get(claim, tiny.fingerprint, verify=True)


def test_what_is_not_the_claims_is_refused(
    tiny: LoadedModel, shelf: Shelf, memory: Artifact, artifacts: Artifacts
) -> None:
    claim = shelf.claim(memory)
    with pytest.raises(FingerprintError):
        artifacts.get(claim, "other", verify=False)
    with pytest.raises(ArtifactError, match="kind kv, not embeds"):
        artifacts.get(replace(claim, kind="embeds"), tiny.fingerprint, verify=False)
    stolen = replace(claim, tenant=tenant_folder("mallory"))
    (shelf.home / "artifacts" / stolen.tenant).mkdir(exist_ok=True)
    (shelf.home / "artifacts" / stolen.file).write_bytes(memory._bytes())
    with pytest.raises(ArtifactError, match="another tenant's"):
        artifacts.get(stolen, tiny.fingerprint, verify=False)
    renamed = replace(claim, artifact="0" * 64)
    (shelf.home / "artifacts" / renamed.file).write_bytes(memory._bytes())
    with pytest.raises(ArtifactError, match="holds something else"):
        artifacts.get(renamed, tiny.fingerprint, verify=True)


def test_opened_artifacts_are_bounded(tiny: LoadedModel, shelf: Shelf) -> None:
    made = [shelf.publish(embeds_artifact(tiny, f"{TEXT} {i}", "mira")) for i in range(5)]
    size = made[0].nbytes
    store = Artifacts(files_of(shelf.config), 3 * size + size // 2)
    for each in made:
        store.get(shelf.claim(each), tiny.fingerprint, verify=True)
    assert size <= store.nbytes <= 3 * size + size // 2
    first = store.get(shelf.claim(made[0]), tiny.fingerprint, verify=True)
    assert torch.equal(first.tensor("embeddings"), made[0].tensor("embeddings"))


def test_a_store_that_cannot_be_reached(tiny: LoadedModel, tmp_path: Path) -> None:
    claim = Claim("kv", tenant_folder("mira"), "a" * 64)
    with pytest.raises(BankError, match="cannot be reached"):
        Artifacts(LocalFiles(tmp_path / "none"), 1).get(claim, "f", verify=False)


def test_artifacts_at_a_url_are_fetched(
    tiny: LoadedModel, shelf: Shelf, memory: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("memkit.engine.sglang.plugin.artifact_files.FRESH", 0.0)
    source = shelf.home / "artifacts"
    files = RemoteFiles(f"file://{source}", tmp_path / "cache")
    store, claim = Artifacts(files, 1 << 30), shelf.claim(memory)
    assert store.get(claim, tiny.fingerprint, verify=True).id == memory.id
    assert (tmp_path / "cache" / claim.file).exists()
    gone = shelf.publish(embeds_artifact(tiny, f"{TEXT} gone", "mira"))
    store.get(shelf.claim(gone), tiny.fingerprint, verify=True)
    shelf.path(gone).unlink()
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.get(shelf.claim(gone), tiny.fingerprint, verify=True)
    assert not (tmp_path / "cache" / shelf.claim(gone).file).exists()


def test_adapters_are_written_for_their_own_names_only(
    tiny: LoadedModel, shelf: Shelf, artifacts: Artifacts, memory: Artifact
) -> None:
    lora = shelf.publish(artifact_of("lora", tiny))
    adapters, claim = Adapters(artifacts, tiny.fingerprint), shelf.claim(lora)
    path = adapters.path(claim.adapter, claim.key)
    assert sorted(os.listdir(path)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert adapters.path("theirs", "some/folder") == "some/folder"
    adapters.unloaded(claim.adapter)
    assert not Path(path).exists()
    assert adapters.path(claim.adapter, path) == path  # SGLang loads it again by itself
    assert Path(path).exists()
    for name, wrong in (
        ("theirs", claim.key),
        (claim.adapter, "some/folder"),
        (claim.adapter, shelf.claim(memory).key),
    ):
        with pytest.raises(EngineError):
            adapters.path(name, wrong)
    adapters.close()


# --- pages -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("total", "size"), [(8, 1), (8, 2), (8, 8), (2, 8), (1, 4), (6, 3)])
def test_every_rank_gets_its_heads(total: int, size: int) -> None:
    """As SGLang deals them out: in runs, or each head to as many neighbours."""
    parts = [list(range(total))[heads_of(total, size, rank)] for rank in range(size)]
    assert {len(part) for part in parts} == {max(total // size, 1)}
    flat = [head for part in parts for head in part]
    assert flat == sorted(flat)
    assert set(flat) == set(range(total))


def test_heads_that_cannot_be_dealt_out() -> None:
    for total, size, rank in ((6, 4, 0), (4, 6, 0), (8, 2, 2)):
        with pytest.raises(EngineError):
            heads_of(total, size, rank)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_together_hold_header_and_memory(size: int) -> None:
    """Tensor parallelism, simulated: any cut of the tokens, every rank's heads, side by side."""
    header = torch.randn(2, 4, 3, 5)
    manifest = SimpleNamespace(tokens=6)
    keys, values = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    artifact: Any = SimpleNamespace(manifest=manifest, tensor=lambda name: keys if name == "keys" else values)
    prefix = Header("f", (1, 2, 3), 2, 8, header, header + 1)
    whole = torch.cat((header, keys), 2), torch.cat((header + 1, values), 2)
    shares = [Share(slice(0, 2), heads_of(4, size, rank)) for rank in range(size)]
    ranks = [Pages(prefix, artifact, share) for share in shares]
    for layer in range(2):
        for start, stop in ((0, 9), (0, 2), (2, 4), (3, 9), (5, 8)):
            made = [rank.rows(layer, start, stop, torch.bfloat16) for rank in ranks]
            for i in range(2):
                joined = torch.cat([pair[i] for pair in made], 1)
                assert torch.equal(joined, whole[i][layer, :, start:stop].transpose(0, 1).bfloat16())


def test_pages_of_another_shape_or_number_are_refused(prefix: Header, memory: Artifact) -> None:
    share = Share(slice(0, 2), slice(0, 1))
    with pytest.raises(ArtifactError, match="have the shape"):
        Pages(replace(prefix, keys=prefix.keys[:1], values=prefix.values[:1]), memory, share)
    with pytest.raises(EngineError, match="kv-cache-dtype"):
        require_pooled(torch.float8_e4m3fn)


# --- admission -------------------------------------------------------------------------------
def asked(shelf: Shelf, artifact: Artifact, tiny: LoadedModel, **changes: Any) -> Any:
    ids = [*tiny.chat.header, *[0] * artifact.manifest.tokens, 7, 8]
    claim = shelf.claim(artifact)
    fields = {"input_ids": ids, "extra_key": claim.key, "cache_salt": salt(SECRET, claim.tenant)}
    return SimpleNamespace(**{**fields, **changes})


def test_admission_of_batches(
    tiny: LoadedModel, shelf: Shelf, memory: Artifact, prefix: Header, artifacts: Artifacts
) -> None:
    admission = RequestChecks(prefix, artifacts, SECRET, 1)
    soft = shelf.publish(embeds_artifact(tiny, TEXT, "mira"))
    first, second = asked(shelf, memory, tiny), asked(shelf, soft, tiny)
    both = SimpleNamespace(
        input_ids=[first.input_ids, second.input_ids, [5, 6]],
        extra_key=[first.extra_key, second.extra_key, ""],
        cache_salt=first.cache_salt,
    )
    found = admission.check(both)
    assert found[0] is None
    assert found[1] is not None
    assert found[2] is None
    assert found[1].start == len(tiny.chat.header)
    made = override_field(found, lambda embeds, positions: (len(embeds), positions[0]), single=False)
    assert made == [None, (soft.manifest.tokens, len(tiny.chat.header)), None]
    both.cache_salt = [first.cache_salt, second.cache_salt]
    with pytest.raises(EngineError, match="3 prompts, but 2"):
        admission.check(both)
    assert admission.check(SimpleNamespace(input_ids=[5], extra_key="theirs")) == []


def test_pages_must_fit(
    tiny: LoadedModel, shelf: Shelf, memory: Artifact, prefix: Header, artifacts: Artifacts
) -> None:
    with pytest.raises(EngineError, match="compile with --option multiple=64"):
        RequestChecks(prefix, artifacts, SECRET, 64).check(asked(shelf, memory, tiny))
    padded = shelf.publish(artifact_of("kv", tiny, multiple=64))
    assert RequestChecks(prefix, artifacts, SECRET, 64).check(asked(shelf, padded, tiny)) == [None]
    assert (len(tiny.chat.header) + padded.manifest.tokens) % 64 == 0


def test_harmless_requests_pass() -> None:
    class Trusted: ...

    good = SimpleNamespace(
        positional_embed_overrides=[None, Trusted()], top_logprobs_num=[0, 5], token_ids_logprob=[[1], None]
    )
    check_harmless(good, Trusted, 10)
    for wrong in ({"logit_bias": {"a": 1}}, {"logit_bias": {"10": 1}}):
        with pytest.raises(EngineError, match="token"):
            check_harmless(SimpleNamespace(sampling_params=wrong), Trusted, 10)


# --- entropy ---------------------------------------------------------------------------------
@given(st.integers(2, 400), st.integers(1, 400), st.floats(0.1, 8.0), st.integers(0, 1000))
def test_the_entropy_is_within_its_error(vocabulary: int, top: int, scale: float, seed: int) -> None:
    logits = (
        torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    )
    logprobs = logits.log_softmax(-1)
    exact = float(-(logprobs.exp() * logprobs).sum())
    given_top = logprobs.sort(descending=True).values[:top].tolist()
    estimate, error = entropy_of_top(given_top, vocabulary)
    assert abs(estimate - exact) <= error + 1e-4
    if top >= vocabulary:
        assert error == 0


def test_no_entropy_of_nothing() -> None:
    with pytest.raises(EngineError):
        entropy_of_top([], 10)
