"""Logs, metrics and traces: what they tell, and that they tell no content."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkit.bank import Bank
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import MissingExtraError, VerificationError
from memkit.memory import Memory
from memkit.observability.events import JsonFormatter, LogObserver, Observer, Observers
from memkit.observability.opentelemetry import Tracing
from memkit.observability.prometheus import Metrics
from memkit.pipeline import admission
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.compile_queue import CompileQueue, Job
from memkit.testing import TEXT, TINY_LCC

# Where only the package is installed, these are not.
parser = pytest.importorskip("prometheus_client.parser")
trace = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory_export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
QUESTION = "Where does Mira live?"
Open = Callable[[Observer], Memory]


@pytest.fixture
def open_memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Open]:
    few, opened = AdmissionConfig(questions=4, pieces=1), list[Memory]()

    def make(observer: Observer) -> Memory:
        memory = Memory(tmp_path, user="mira", engine=engine, **TINY_LCC, admission=few, observer=observer)
        opened.append(memory)
        return memory

    yield make
    for memory in opened:
        memory.close()


def refuse(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = admission.Thresholds(1.0, -9.0, -9.0, "a test")
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, compiler: strict)
    with pytest.raises(VerificationError):
        memory.remember("Jalo works at Brimtek.", wait=True, always=True)


def test_log_records_tell_what_happened_and_no_content(
    open_memory: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory(LogObserver())
    with caplog.at_level(logging.INFO, logger="memkit"):
        info = memory.remember(TEXT, wait=True)
        memory.ask(QUESTION)
        refuse(memory, monkeypatch)
    told = [record.memkit for record in caplog.records if hasattr(record, "memkit")]
    assert [each["event"] for each in told] == ["compiled", "answered", "refused"]
    assert (told[0]["memory"], told[0]["version"], told[1]["route"]) == (info.id, 1, "latent")
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert json.loads(lines[1])["route"] == "latent"
    for word in ("Mira", "mira", "Keldor", "Brimtek"):
        assert word not in "".join(lines)


def test_metrics_count_by_route_and_outcome(
    open_memory: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metrics = Metrics()
    memory = open_memory(Observers(metrics, LogObserver()))
    metrics.watch(memory.queue_age)
    memory.ask(QUESTION)
    memory.remember(TEXT, compile=False)
    memory.ask(QUESTION)
    memory.remember(TEXT, wait=True)
    memory.ask(QUESTION)
    refuse(memory, monkeypatch)
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }
    assert [values["memkit_answers_total", route] for route in ("none", "text", "latent")] == [1, 1, 1]
    assert values["memkit_compilations_total", "compiled"] == 1
    assert values["memkit_compilations_total", "VerificationError"] == 1
    assert values["memkit_compile_seconds_count", "lcc"] == values["memkit_fidelity_count", "lcc"] == 1
    assert values["memkit_answer_seconds_count", "latent"] == 1
    assert values["memkit_queue_age_seconds",] == 0
    metrics.write(tmp_path / "memkit.prom")
    assert "mira" not in (tmp_path / "memkit.prom").read_text()


def test_the_queues_age_is_that_of_the_oldest(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        started.set()
        go_on.wait(10)

    with Bank(tmp_path / "bank") as bank:
        queue = CompileQueue(bank, work)
        assert queue.age() == 0
        queue.compile("mira", "0" * 16)
        assert started.wait(10)
        time.sleep(0.05)
        assert queue.age() >= 0.05
        go_on.set()
        queue.wait()
        assert queue.age() == 0
        queue.stop()


def test_spans_of_answers_and_compilations(open_memory: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = memory_export.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    memory = open_memory(Tracing(provider))
    with provider.get_tracer("an application").start_as_current_span("request") as request:
        memory.remember(TEXT, wait=True)
        memory.ask(QUESTION)
    refuse(memory, monkeypatch)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"memkit.ask", "memkit.route", "memkit.generate", "memkit.compile", "request"}
    ask, route = spans["memkit.ask"], spans["memkit.route"]
    assert ask.parent is not None
    assert ask.parent.span_id == request.get_span_context().span_id
    assert route.parent is not None
    assert ask.context is not None
    assert route.parent.span_id == ask.context.span_id
    assert dict(ask.attributes or {})["memkit.route"] == "latent"
    assert not any("Mira" in str(span.attributes) for span in spans.values())
    assert spans["memkit.compile"].status.description == "VerificationError"  # the later one


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [("prometheus_client", Metrics, "metrics"), ("opentelemetry", Tracing, "otel")],
)
def test_extras_are_named(
    module: str, make: Callable[[], Any], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"memkit-llm\[{extra}\]"):
        make()
