"""Many clients ask while edits are added and removed: each answer is exactly that of the version it names."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support import thoroughness
from tests.support.http_servers import MODEL, network_server
from tests.support.served_models import FACTS, OTHER_PROMPTS, PROMPTS, grace, live_model
from tests.support.tiny_models import build_tokenizer

CLIENTS, REQUESTS, CHANGES = (16, 200, 100) if thoroughness.full else (6, 15, 14)
Answer = tuple[int, str, int, str]
"""The version that an answer names, its prompt, its limit, and its text."""


def change_edits(client: httpx.Client, draw: random.Random) -> None:
    """Add, delete and roll back edits."""
    version, live = 0, []
    for number in range(CHANGES):
        kind = draw.choice(["edit", "edit", "delete", "rollback"]) if number > 2 and live else "edit"
        if kind == "edit":
            prompt, _ = draw.choice(FACTS)
            target = draw.choice(["Rome", "snow", "old king", "bird", "violin"])
            answer = client.post("/v1/edits", json={"prompt": prompt, "target_new": target})
        elif kind == "delete":
            answer = client.delete(f"/v1/edits/{draw.choice(live)}")
        else:
            answer = client.post("/v1/edits/rollback", json={"to": draw.randint(0, version)})
        assert answer.status_code in (200, 201), answer.text
        version = answer.json()["version"]
        live = [edit["id"] for edit in client.get("/v1/edits").json()["data"]]


def ask(client: httpx.Client, seed: int, done: Callable[[], bool]) -> list[Answer]:
    """Ask at least :data:`REQUESTS` questions, some of them of pinned versions, some streamed."""
    draw, answers = random.Random(seed), []
    while len(answers) < REQUESTS or not done():
        prompt, tokens = draw.choice([*PROMPTS, *OTHER_PROMPTS]), draw.randint(1, 8)
        versions = range(answers[-1][0] + 1) if answers else [0]
        suffix = draw.choice(["", "", "", "@base", f"@v{draw.choice(versions)}"])
        body = {"model": MODEL + suffix, "prompt": prompt, "temperature": 0, "max_tokens": tokens}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        version = int(answer.headers["X-Edits-Version"])
        if suffix:
            assert version == int(suffix.removeprefix("@base").removeprefix("@v") or 0)
        answers.append((version, prompt, tokens, answer.json()["choices"][0]["text"]))
    return answers


def test_every_answer_is_that_of_the_version_in_its_header(tmp_path: Path) -> None:
    with (
        network_server(tmp_path) as (url, _),
        httpx.Client(base_url=url, timeout=300) as client,
        ThreadPoolExecutor(CLIENTS + 1) as pool,
    ):
        changing = pool.submit(change_edits, client, random.Random(7))
        asking = [pool.submit(ask, client, seed, changing.done) for seed in range(CLIENTS)]
        answers = {answer for future in asking for answer in future.result()}
        changing.result()
    versions = {version for version, *_ in answers}
    assert len(versions) > CHANGES / 3
    scorer, hparams, expected = Scorer(build_tokenizer()), grace(), {}
    for version in versions:  # each version offline, on a separate model, one prompt at a time
        with live_model(tmp_path, hparams) as live, live.at(version) as model:
            for _, prompt, tokens, _ in (answer for answer in answers if answer[0] == version):
                if (version, prompt, tokens) not in expected:
                    expected[version, prompt, tokens] = scorer.generate(model, [prompt], tokens)[0]
    wrong = [answer for answer in answers if expected[answer[:3]] != answer[3]]
    assert wrong == []
    texts = {(prompt, tokens): set[str]() for _, prompt, tokens in expected}
    for (_, prompt, tokens), text in expected.items():
        texts[prompt, tokens].add(text)
    assert sum(len(different) > 1 for different in texts.values()) > 4, "the versions differ in their answers"
