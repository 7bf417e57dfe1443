"""Compare our server, with edits, with ``transformers serve`` on the same model and the same chats.

Both servers answer the same requests over HTTP, alternately. Clients are threads that send one request after the other.
``transformers serve`` runs as a process, with the same number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich.table import Table
from serving import SAMPLES, percentile, server

from easyedit_lifelong import load_model
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.serving.new_thread import run_in_new_thread

THEIRS, OURS = "transformers serve", "easyedit-lifelong serve, with edits"


@contextlib.contextmanager
def transformers_server(folder: Path, options: Sequence[str]) -> Iterator[httpx.Client]:
    """Run ``transformers serve`` at a free port, and yield a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", "--device", "cpu", "--dtype", "float32", "--port", str(port), *options]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=600) as client:
            while process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/health")
                    break
                time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait()


def save_model(name: str, folder: Path) -> None:
    """Save a model and its tokenizer."""
    for part in load_model(name, "cpu"):
        part.save_pretrained(folder)


def ask(client: httpx.Client, model: str, prompt: str, tokens: int) -> float:
    """Ask in a chat, greedily; return the seconds that it took."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": False}
    began = time.perf_counter()
    client.post("/v1/chat/completions", json=body).raise_for_status()
    return time.perf_counter() - began


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--hparams", default="GRACE/smollm2-135m", help="hyperparameters of the edits")
    add("--edits", type=int, default=5, help="edits on our server")
    add("--clients", type=int, default=4, help="clients at the same time")
    add("--requests", type=int, default=16, help="requests of a run")
    add("--tokens", type=int, default=8, help="new tokens of an answer, at most")
    add("--runs", type=int, default=3, help="runs of each side")
    add("--continuous-batching", action="store_true", help="the option of transformers serve")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, console = arguments(argv), Console()
    try:
        hparams = load_hparams(options.hparams)
        facts = read_requests(str(SAMPLES), reader_of(str(SAMPLES), None).read, limit=options.requests)
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            run_in_new_thread(lambda: save_model(hparams.model_name, folder / "model"))
            flags = ["--continuous-batching"] if options.continuous_batching else []
            sides = {
                THEIRS: (stack.enter_context(transformers_server(folder, flags)), str(folder / "model")),
                OURS: (stack.enter_context(server(hparams, folder / "edits")), "model"),
            }
            for fact in facts[: options.edits]:
                chat = [{"role": "user", "content": fact.prompt}]
                body = {"messages": chat, "target_new": fact.target_new, "subject": fact.subject}
                sides[OURS][0].post("/v1/edits", json=body).raise_for_status()
            seconds: dict[str, list[float]] = {THEIRS: [], OURS: []}
            rates: dict[str, list[float]] = {THEIRS: [], OURS: []}
            for client, model_name in sides.values():
                ask(client, model_name, "one-time costs", 2)

            def run(side: str) -> None:
                began = time.perf_counter()
                with ThreadPoolExecutor(options.clients) as pool:
                    seconds[side] += pool.map(lambda fact: ask(*sides[side], fact.prompt, options.tokens), facts)
                rates[side].append(len(facts) / (time.perf_counter() - began))

            alternate(options.runs, lambda _: run(THEIRS), lambda _: run(OURS))
    except LifelongError as error:
        return stop(error)
    console.print(describe(machine()))
    table = Table("server", "p50 s", "p95 s", "requests/s")
    for side, each in seconds.items():
        table.add_row(side, *(f"{x:.2f}" for x in (median(each), percentile(each, 0.95), median(rates[side]))))
    console.print(table)
    finish(
        "serving_transformers",
        ours=median(seconds[OURS]),
        theirs=median(seconds[THEIRS]),
        unit="seconds a request, median",
        p95={side: percentile(each, 0.95) for side, each in seconds.items()},
        requests_per_second={side: median(values) for side, values in rates.items()},
        clients=options.clients,
        edits=options.edits,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
