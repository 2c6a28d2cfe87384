import itertools
import json
import logging
import subprocess
import sys
import time

import pytest
from collector import collecting
from fast_lane_server import INFER, ask, fast_lane_server, tensor
from starlette.testclient import TestClient

from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.observing import tracing
from lepton_tasks.serving.observing.logs import JsonLines
from lepton_tasks.serving.observing.request_log import read_requests
from lepton_tasks.serving.observing.tracing import Tracer, trace_id, tracer_of

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{CALLER}-01"


def recording(**options):
    return Tracer(lambda spans: None, **options)


def test_without_an_exporter_the_callers_context_goes_back_and_nothing_is_made_up():
    tracer = Tracer()
    assert tracer.begin(None) is None
    trace = tracer.begin(GIVEN)
    assert (trace.id, trace.header, trace.span) == (TRACE, GIVEN, "")
    tracer.record(trace, "predict", {"total": (0.0, 1.0)}, {})
    assert not tracer._waiting


def test_a_recorded_request_is_a_child_of_its_caller():
    trace = recording().begin(GIVEN)
    assert (trace.id, trace.parent) == (TRACE, CALLER)
    assert trace.header == f"00-{TRACE}-{trace.span}-01"
    assert trace.span not in ("", CALLER)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "00",
        GIVEN.upper(),
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}",
        f"{GIVEN}-more",
        f"00-{TRACE}-{CALLER}-01\r\nx: y",
    ],
)
def test_what_is_no_context_begins_a_trace_of_its_own(given):
    trace = recording().begin(given)
    assert (trace.id != TRACE, trace.parent, len(trace.id), len(trace.span)) == (True, "", 32, 16)
    assert Tracer().begin(given) is None


def test_a_later_version_of_the_context_is_read_as_this_one():
    later = f"01-{TRACE}-{CALLER}-01"
    assert recording().begin(f"{later}-more").id == TRACE
    assert Tracer().begin(f"{later}-more\rx: y").header == later


def test_who_is_recorded_follows_the_caller_or_a_share():
    unsampled = GIVEN.removesuffix("01") + "00"
    assert recording().begin(unsampled).header.endswith("-00")
    assert recording().begin(unsampled).span == ""
    assert recording(heeds_parent=False).begin(unsampled).span
    shares = [bool(recording(share=0.25).begin(None).span) for _ in range(2000)]
    assert 400 < sum(shares) < 600
    assert {bool(recording(share=0.5, heeds_parent=False).begin(GIVEN).span) for _ in range(9)} == {False}


def test_a_request_arrives_at_the_collector_with_its_stages(tmp_path, monkeypatch):
    body = json.dumps(tensor(51)).encode()
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with fast_lane_server(tmp_path, Limits()) as server:
            before = time.time_ns()
            _, headers, _ = ask(server, INFER, body, traceparent=GIVEN)
            assert ask(server, INFER, b"{", traceparent=GIVEN.replace("4bf9", "4bf8"))[0] == 400
            assert "traceparent" in ask(server, INFER, body)[1]
    spans = {span.name: span for span in collector.spans[TRACE]}
    assert set(spans) == {"infer", "queue", "decode", "run", "encode"}
    whole = spans["infer"]
    assert headers["traceparent"] == f"00-{TRACE}-{whole.span_id.hex()}-01"
    assert whole.parent_span_id.hex() == CALLER
    assert {span.parent_span_id for name, span in spans.items() if name != "infer"} == {whole.span_id}
    stages = [spans[name] for name in ("queue", "decode", "run", "encode")]
    moments = [moment for span in stages for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
    # Seconds since the epoch are exact to a quarter of a microsecond.
    ordered = [whole.start_time_unix_nano, *moments, whole.end_time_unix_nano]
    assert all(later - earlier > -1000 for earlier, later in itertools.pairwise(ordered))
    assert abs(whole.start_time_unix_nano - before) < 5e9
    about = {a.key: a.value for a in whole.attributes}
    assert about["lepton.model"].string_value == "tiny"
    assert about["lepton.version"].string_value == "7"
    assert about["http.response.status_code"].int_value == 200
    (refused,) = (spans for trace, spans in collector.spans.items() if trace.startswith("4bf8"))
    assert {a.value.int_value for span in refused for a in span.attributes if a.key.endswith("status_code")} == {400}
    assert len(collector.spans) == 3
    assert collector.services == {"lepton-serving"}
    records = list(read_requests(tmp_path / "home" / "requests", "tiny"))
    assert records[0]["trace"] == TRACE


def test_a_collector_that_refuses_harms_nobody_and_is_told_of(monkeypatch, caplog):
    with collecting(status=400) as (_, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        tracer = tracer_of({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        tracer.start()
        tracer.record(tracer.begin(None), "predict", {"total": (0.0, 1.0)}, {})
        tracer.close()
    assert tracer.dropped == 1
    assert "1 requests are missing in the traces" in caplog.text


def test_more_than_can_wait_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(tracing, "_CAPACITY", 3)
    tracer = recording()
    for _ in range(5):
        tracer.record(tracer.begin(None), "predict", {"total": (0.0, 1.0)}, {})
    assert (len(tracer._waiting), tracer.dropped) == (3, 2)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_recorded_unless_it_is_asked_for(environment):
    assert not tracer_of(environment).on


def test_without_the_packages_the_server_says_so_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(tracing, "_installed", lambda package: False)
    assert not tracer_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}).on
    assert "no traces are exported to http://collector:4318" in caplog.text


def test_off_imports_no_opentelemetry():
    code = "import sys, lepton_tasks.serving.server; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_samplers_follow_the_standard_variables():
    tracer = tracer_of(
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
        }
    )
    assert (tracer._share, tracer._heeds_parent) == (0.5, False)


def test_a_line_of_json_holds_what_is_known():
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        record = logging.LogRecord("lepton.serving", logging.ERROR, "", 0, "%s\nfailed", ("x",), sys.exc_info())
    record.trace, record.model, record.version = TRACE, "tiny", "7"
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert {name: line[name] for name in ("level", "logger", "message", "trace", "model", "version")} == {
        "level": "error",
        "logger": "lepton.serving",
        "message": "x\nfailed",
        "trace": TRACE,
        "model": "tiny",
        "version": "7",
    }
    assert line["time"].endswith("+00:00")
    assert "ValueError: bad" in line["exception"]
    bare = logging.LogRecord("a", logging.INFO, "", 0, "m", (), None)
    assert set(json.loads(JsonLines().format(bare))) == {"time", "level", "logger", "message"}


def test_lines_of_the_log_about_a_request_name_its_trace(tmp_path, caplog):
    app = create_app(tmp_path)

    @app.get("/broken")
    async def broken():
        raise RuntimeError

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/broken", headers={"traceparent": GIVEN}).status_code == 500
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert (line["trace"], line["message"]) == (TRACE, "GET /broken failed")
    assert trace_id("nonsense") == trace_id(None) == ""
