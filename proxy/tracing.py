"""OpenTelemetry: what a statement did, as spans, for a collector that speaks OTLP over HTTP.

Only made where the configuration has ``tracing``; nothing of OpenTelemetry is imported else. Spans are made when all is
over, of the moments that were noted: nothing is open meanwhile, and nobody has to be told. Whether a statement is
traced is said by its own ``traceparent`` (a comment as sqlcommenter writes it), else by the share that the
configuration names.

https://www.w3.org/TR/trace-context/#traceparent-header
https://opentelemetry.io/docs/specs/semconv/database/postgresql/
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.config import TracingTo

#: A comment with a context in it, wherever it stands in the text.
_TRACEPARENT: Final = re.compile(
    r"/\*(?:[^*]|\*(?!/))*?\btraceparent='00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})'", re.ASCII
)
_SCHEDULE_MS: Final = 1000
_SHUTDOWN_MS: Final = 2000
_NS: Final = 1_000_000_000


class Exchange(NamedTuple):
    """What one shard was asked, from when (time.monotonic) and for how many seconds."""

    shard: str
    asked_at: float
    took: float


class Span(NamedTuple):
    """What is to be a span: its name, its time (as above), what is to be said of it."""

    name: str
    begun: float
    ended: float
    attributes: Mapping[str, str | int]


class Tracing:
    """Where spans go. ``exporter``: another one than the configuration's, that gets each span at once."""

    def __init__(self, settings: TracingTo, exporter: Any = None) -> None:
        """Raises ProxyError where OpenTelemetry is not installed."""
        try:
            from opentelemetry import trace  # noqa: PLC0415 - only where it is wanted
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
        except ImportError as error:
            raise _missing(error) from error
        self._trace = trace
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource.create({"service.name": settings.service}),
            shutdown_on_exit=False,
        )
        if exporter is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            self._provider.add_span_processor(
                BatchSpanProcessor(_otlp(settings.endpoint), schedule_delay_millis=_SCHEDULE_MS)
            )
        self._tracer = self._provider.get_tracer("pgchorus")

    def parent_of(self, text: str) -> Any:
        """Return the context that a statement's text names, or None."""
        found = _TRACEPARENT.search(text) if "traceparent" in text else None
        if found is None:
            return None
        trace = self._trace
        context = trace.SpanContext(
            int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=trace.TraceFlags(int(found[3], 16))
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(context)) if context.is_valid else None

    def record(self, whole: Span, parts: Sequence[Span], parent: Any, error: str = "") -> None:
        """Make the span of a statement, and those of its parts; ``error``: the SQLSTATE that it ended with."""
        shift = time.time_ns() - int(time.monotonic() * _NS)
        trace = self._trace

        def ns(moment: float) -> int:
            return shift + int(moment * _NS)

        context = parent if parent is not None else trace.set_span_in_context(trace.INVALID_SPAN)
        span = self._tracer.start_span(
            whole.name,
            context,
            kind=trace.SpanKind.SERVER,
            attributes=dict(whole.attributes),
            start_time=ns(whole.begun),
        )
        if span.is_recording():
            inside = trace.set_span_in_context(span)
            for part in parts:
                self._tracer.start_span(
                    part.name,
                    inside,
                    kind=trace.SpanKind.CLIENT,
                    attributes=dict(part.attributes),
                    start_time=ns(part.begun),
                ).end(ns(part.ended))
            if error:
                span.set_attribute("db.response.status_code", error)
                span.set_status(trace.StatusCode.ERROR)
        span.end(ns(whole.ended))

    def close(self) -> None:
        """Send what has not been sent; waits for the collector, a moment at most."""
        self._provider.force_flush(_SHUTDOWN_MS)
        self._provider.shutdown()


def _otlp(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as above
    except ImportError as error:
        raise _missing(error) from error
    return OTLPSpanExporter(endpoint)


def _missing(error: ImportError) -> ProxyError:
    return ProxyError(
        "58000", f"tracing needs OpenTelemetry ({error.name} is missing)", hint="pip install 'pgchorus[tracing]'"
    )


def rounds(exchanges: Sequence[Exchange]) -> list[tuple[int, Exchange]]:
    """Return exchanges with the number of the round that each was sent in: one begins when all before it have ended."""
    found: list[tuple[int, Exchange]] = []
    number, end = 0, 0.0
    for exchange in sorted(exchanges, key=lambda one: one.asked_at):
        if exchange.asked_at >= end:
            number += 1
        end = max(end, exchange.asked_at + exchange.took)
        found.append((number, exchange))
    return found
