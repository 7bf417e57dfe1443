"""Compare a server with edits with the unedited server: latency, throughput, and the time from an edit to its answer.

Both servers run in one process and answer the same requests over HTTP, alternately; the unedited one has a model of its
own. Clients are threads that send one request after the other. Each answer has the same number of tokens on both sides.

``--versions`` also asks the edited server for three versions alternately, once with batches of several versions, and
once with a batch for each version.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import sys
import tempfile
import threading
import time
import unittest.mock
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from _machine import alternate, describe, finish, machine, median, stop
from rich.table import Table

from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.serving.edit_log import EditLog
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.jobs import GenerationJob
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.metrics import Metrics
from easyedit_lifelong.serving.new_thread import run_in_new_thread
from easyedit_lifelong.serving.served import ServerSettings
from easyedit_lifelong.serving.server import http_server, open_socket, running_engine, url_of

SAMPLES = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"


@contextlib.contextmanager
def server(hparams: Any, folder: Path) -> Iterator[httpx.Client]:
    """Run a server at a free port, and yield a client of it."""
    log, metrics = EditLog(folder), Metrics()
    with contextlib.closing(log), open_socket("127.0.0.1", 0) as listening:
        live = run_in_new_thread(lambda: LiveModel(*load_model_for(hparams), hparams, find_method(hparams), log))
        with running_engine(live, metrics) as engine:
            http = http_server(engine, ServerSettings(name="model"), metrics)
            thread = threading.Thread(target=http.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                with httpx.Client(base_url=url_of(listening), timeout=600) as client:
                    yield client
            finally:
                http.should_exit = True
                thread.join()


def ask(client: httpx.Client, prompt: str, tokens: int, model: str = "model") -> tuple[float, str]:
    """Ask greedily; return the seconds that it took, and the text."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    began = time.perf_counter()
    answer = client.post("/v1/completions", json=body).raise_for_status().json()
    return time.perf_counter() - began, str(answer["choices"][0]["text"])


def load(
    client: httpx.Client, prompts: Sequence[str], clients: int, tokens: int, models: Sequence[str] = ("model",)
) -> tuple[list[float], float]:
    """Ask all prompts with several clients; return the seconds of each request, and those of all together.

    Args:
        client: a client of the server.
        prompts: the prompts.
        clients: how many ask at the same time.
        tokens: new tokens of an answer, at most.
        models: the models that are asked, one after the other.
    """
    began = time.perf_counter()
    questions = zip(prompts, itertools.cycle(models))
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(lambda question: ask(client, question[0], tokens, question[1])[0], questions))
    return seconds, time.perf_counter() - began


def compare_versions(client: httpx.Client, prompts: Sequence[str], options: argparse.Namespace) -> dict[str, float]:
    """Ask three versions alternately; return the requests per second, with and without batches of several versions."""
    models = ["model", "model@base", f"model@v{options.edits // 2}"]
    rates: dict[str, list[float]] = {"in one batch": [], "a batch each": []}

    def same_version(engine: Engine, jobs: Sequence[GenerationJob]) -> bool:
        return len({engine._version_of(job) for job in jobs}) == 1

    def run(name: str) -> None:
        can_mix = Engine._can_mix if name == "in one batch" else same_version
        with unittest.mock.patch.object(Engine, "_can_mix", can_mix):
            _, total = load(client, prompts, options.clients, options.tokens, models)
        rates[name].append(len(prompts) / total)

    alternate(options.runs, *(functools.partial(lambda name, _: run(name), name) for name in rates))
    return {name: median(values) for name, values in rates.items()}


def edit(client: httpx.Client, request: EditRequest) -> tuple[float, float, bool]:
    """Add an edit and ask for its answer.

    Returns:
        The seconds until the edit was acknowledged and until it was answered, and whether the answer begins with it.
    """
    began = time.perf_counter()
    fields = {"prompt": request.prompt, "target_new": request.target_new, "subject": request.subject}
    client.post("/v1/edits", json=fields).raise_for_status()
    acknowledged = time.perf_counter() - began
    _, text = ask(client, request.prompt, 4)
    return acknowledged, time.perf_counter() - began, text.strip().startswith(request.target_new.split()[0])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * share) - 1]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--hparams", default="GRACE/smollm2-135m", help="hyperparameters of the edits")
    add("--data", type=Path, default=SAMPLES, help="dataset file of the edits (default: the sample facts)")
    add("--edits", type=int, default=20, help="edits on the edited server")
    add("--clients", type=int, default=4, help="clients at the same time")
    add("--requests", type=int, default=32, help="requests of a run; half of them are edited prompts")
    add("--tokens", type=int, default=8, help="new tokens of an answer, at most")
    add("--versions", action="store_true", help="also ask three versions alternately")
    add("--runs", type=int, default=3, help="runs of each side")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, console = arguments(argv), Console()
    try:
        hparams = load_hparams(options.hparams)
        read = reader_of(str(options.data), None).read
        requests = read_requests(str(options.data), read, limit=2 * options.edits)
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            sides = {name: stack.enter_context(server(hparams, Path(folder) / name)) for name in ("base", "edited")}
            ask(sides["edited"], "one-time costs", 2)
            edits = [edit(sides["edited"], request) for request in requests[: options.edits]]
            prompts = [requests[number % len(requests)].prompt for number in range(options.requests)]
            seconds: dict[str, list[float]] = {"base": [], "edited": []}
            rates: dict[str, list[float]] = {"base": [], "edited": []}

            def run(name: str) -> None:
                each, total = load(sides[name], prompts, options.clients, options.tokens)
                seconds[name] += each
                rates[name].append(len(prompts) / total)

            alternate(options.runs, lambda _: run("base"), lambda _: run("edited"))
            versions = compare_versions(sides["edited"], prompts, options) if options.versions else {}
    except LifelongError as error:
        return stop(error)
    console.print(describe(machine()))
    table = Table("server", "p50 s", "p95 s", "requests/s")
    for name in ("base", "edited"):
        figures = (median(seconds[name]), percentile(seconds[name], 0.95), median(rates[name]))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    acknowledged, answered, correct = zip(*edits, strict=True)
    figures = {"acknowledged": acknowledged, "answered": answered}
    for name, values in figures.items():
        console.print(f"POST until {name}: median {median(values):.3f} s, p95 {percentile(values, 0.95):.3f} s")
    for name, rate in versions.items():
        console.print(f"three versions, {name}: {rate:.3f} requests/s")
    console.print(f"answered with the new target: {sum(correct)} of {len(correct)}")
    finish(
        "serving",
        ours=median(seconds["edited"]),
        theirs=median(seconds["base"]),
        unit="seconds a request, median: server with edits (ours), unedited server (theirs)",
        p95={name: percentile(values, 0.95) for name, values in seconds.items()},
        requests_per_second={name: median(values) for name, values in rates.items()},
        post={name: [median(values), percentile(values, 0.95)] for name, values in figures.items()},
        correct=sum(correct),
        versions=versions,
        edits=options.edits,
        clients=options.clients,
        hparams=options.hparams,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
