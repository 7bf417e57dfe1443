"""The HTTP app: all routes around one engine."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse

from easyedit_lifelong.serving import answer_models as answers
from easyedit_lifelong.serving import answers_api, edits_api, page_api
from easyedit_lifelong.serving.api_errors import install_error_handlers
from easyedit_lifelong.serving.api_schema import Api
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.guard import Guard
from easyedit_lifelong.serving.metrics import Metrics
from easyedit_lifelong.serving.served import Asks, Served, ServerSettings
from easyedit_lifelong.versions import __version__


def create_app(engine: Engine, settings: ServerSettings, metrics: Metrics) -> Api:
    """Return the HTTP app of an engine.

    Args:
        engine: the engine; the caller closes it.
        settings: the settings.
        metrics: the metrics, which the engine's ``on_step`` may share.
    """
    app = Api(
        title="easyedit-lifelong serve",
        version=__version__,
        description="A language model whose edits change while it answers.",
        docs_url=None,  # FastAPI's pages load scripts from the internet; page_api has another
        redoc_url=None,
    )
    served = Served(engine, settings, metrics)
    app.state.served = served
    install_error_handlers(app)
    app.include_router(answers_api.router)
    app.include_router(edits_api.router)
    app.include_router(page_api.router)

    broken: dict[int | str, dict[str, Any]] = {
        503: {"model": answers.Health, "description": "The edits could not be loaded again."}
    }

    @app.get("/healthz", tags=["server"], response_model=answers.Health, responses=broken)
    async def health() -> JSONResponse:
        """Tell whether the server can answer. Needs no key."""
        usable = engine.live.present.usable
        content = {"status": "ok" if usable else "broken", "version": served.version, "waiting": engine.waiting}
        return JSONResponse(content, 200 if usable else 503)

    @app.get("/v1/metrics", tags=["server"], response_class=PlainTextResponse)
    async def read_metrics(served: Asks) -> PlainTextResponse:
        """Return counters and histograms in Prometheus' text format."""
        gauges = {
            "version": served.version,
            "edits": served.log.present.count,
            "waiting": engine.waiting,
        }
        return PlainTextResponse(served.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    app.add_middleware(
        Guard,
        version=lambda: served.version,
        metrics=served.metrics,
        max_body=settings.max_body,
        timeout=settings.timeout,
        only_loopback=settings.only_loopback,
    )
    return app
