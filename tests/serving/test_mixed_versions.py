"""A batch whose rows have different versions: each row is exactly that of its version alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    CoachHookHyperParams,
    DeferHyperParams,
    GraceHyperParams,
    MemoryHyperParams,
    NeuralDBHyperParams,
)
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.serving.earlier_versions import MAX_VERSIONS
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.static_batch import generate_rows
from tests.support import coachhook_edits, subject_edits
from tests.support.corpus import write_corpus
from tests.support.served_models import FACTS, OTHER_PROMPTS, PROMPTS, fine_tuning, grace, live_model
from tests.support.tiny_models import build_tokenizer

_LAYER = "model.layers[2].mlp.down_proj"
SUBJECTS = ["France", "Hamlet", "moon", "Peru", "France", "king"]
VERSIONS = [0, 1, 2, 3, 4, 5, 2, 0, 4]
TOKENIZER = build_tokenizer()


def neuraldb(folder: Path) -> Any:
    values = {"layers": [1], "mom2_dataset": str(folder / "corpus.txt"), "stats_dir": str(folder / "stats")}
    return NeuralDBHyperParams(
        model_name="tiny",
        rewrite_module_tmp="model.layers.{}.mlp.down_proj",
        layer_module_tmp="model.layers.{}",
        v_num_grad_steps=5,
        **values,
    )


def grace_everywhere(_: Path) -> GraceHyperParams:
    return GraceHyperParams(model_name="tiny", inner_params=[_LAYER], n_iter=20, replacement="replace_all")


def coachhook(folder: Path, **settings: Any) -> CoachHookHyperParams:
    values = {"mom2_dataset": str(folder / "corpus.txt"), "stats_dir": str(folder / "stats"), **settings}
    return coachhook_edits.hparams_for("llama", **values)


HPARAMS = {
    "GRACE": lambda _: grace(),
    "GRACE, all tokens": grace_everywhere,
    "GRACE by subject": lambda folder: subject_edits.hparams("subject", folder=folder),
    "GRACE by subject, later layer": lambda folder: subject_edits.hparams("late", folder=folder),
    "NeuralDB": neuraldb,
    "CoachHook": coachhook,
    "CoachHook, codebook": lambda folder: coachhook(folder, scope_score="codebook"),
    "Defer-native": lambda _: DeferHyperParams(model_name="tiny", inner_params=[_LAYER], n_iter=20),
    "Memory": lambda _: MemoryHyperParams(model_name="tiny", inner_params=[_LAYER], n_iter=5),
}
EXACT = {name for name in HPARAMS if name.startswith(("GRACE", "NeuralDB"))}
"""Others compute products with all rows of a version, which round differently for other numbers of rows."""


@contextlib.contextmanager
def five_versions(folder: Path, hparams: Any) -> Iterator[LiveModel]:
    """A live model with five versions: with more and fewer edits, and with another edit of the same prompt."""
    edits = [EditRequest(f"f{n}", *fact, subject=SUBJECTS[n]) for n, fact in enumerate(FACTS)]
    with live_model(folder / "edits", hparams) as live:
        live.add(edits[:1], "key")
        live.add(edits[1:3], "key")
        if get_plugins().method_for(hparams).remove is not None:
            live.delete("f0", "key")
        else:
            live.roll_back(1, "key")
        live.add(edits[3:5], "key")
        live.roll_back(2, "key")
        yield live


def prompts() -> list[list[int]]:
    return [TOKENIZER(prompt)["input_ids"] for prompt in [*PROMPTS, *OTHER_PROMPTS, FACTS[5][0], FACTS[0][0]]]


def logits(model: Any) -> torch.Tensor:
    """The logits of all prompts, in one batch."""
    ids, mask = pad_rows(prompts(), 0, "left", torch.device("cpu"))
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return output


def texts(model: Any) -> list[list[int]]:
    """The generated tokens of all prompts, in one batch."""
    rows = [Row(prompt, Sampling(max_tokens=5)) for prompt in prompts()]
    generate_rows(model, TOKENIZER, rows)
    return [row.tokens for row in rows]


@pytest.mark.parametrize("method", HPARAMS)
def test_every_row_is_that_of_its_version(tmp_path: Path, method: str) -> None:
    write_corpus(tmp_path)
    with five_versions(tmp_path, HPARAMS[method](tmp_path)) as live:
        alone = []
        for version in range(6):
            with live.at(version) as model:
                alone.append((logits(model), texts(model)))
        assert len({str(tokens) for _, tokens in alone}) > 3, "the versions differ"
        present = live.log.ids_at(live.version)
        for shift in range(3):
            versions = VERSIONS[shift:] + VERSIONS[:shift]
            with live.of_rows(versions) as model:
                mixed, tokens = logits(model), texts(model)
            for row, version in enumerate(versions):
                if method in EXACT:
                    assert torch.equal(mixed[row], alone[version][0][row]), (row, version)
                else:
                    torch.testing.assert_close(mixed[row], alone[version][0][row], rtol=1e-4, atol=1e-4)
                assert tokens[row] == alone[version][1][row], (row, version)
        with live.at(0) as base:
            assert PositionTracker.of(base) is None, "nothing stays on the base model"
            assert torch.equal(logits(base), alone[0][0])
        assert live.log.ids_at(live.version) == present
        assert torch.equal(logits(live.model), alone[5][0])


def test_each_method_that_says_so_is_tested() -> None:
    methods = {method.name for method in get_plugins().methods if method.edits_by_row}
    assert methods == {name.split(" ")[0].rstrip(",") for name in HPARAMS}


def test_requests_of_several_versions_are_one_batch(tmp_path: Path) -> None:
    sizes: list[int] = []
    with five_versions(tmp_path, grace()) as live:
        engine = Engine(live, on_step=lambda rows, _: sizes.append(rows))
        block = engine.run(lambda: jobs.extend(engine.generate(rows_of(0), version) for version in [0, 1, None, 5, 4]))
        jobs: list[Any] = []
        block.result(60)
        answers = [(job.finished.result(60), job.started.result(60), job.rows[0].tokens)[1:] for job in jobs]
        alone = []
        for version in [0, 1, None, 5, 4]:
            job = engine.generate(rows_of(0), version)
            job.finished.result(60)
            alone.append((job.started.result(60), job.rows[0].tokens))
        engine.close()
    assert answers == alone
    assert [version for version, _ in answers] == [0, 1, 5, 5, 4]
    assert sizes[0] == 5 and max(sizes[1:]) <= 5


def rows_of(number: int) -> list[Row]:
    return [Row(prompts()[number], Sampling(max_tokens=4))]


def test_a_method_that_writes_weights_gets_a_batch_for_each_version(tmp_path: Path) -> None:
    with live_model(tmp_path, fine_tuning()) as live:
        assert not live.mixes_versions
    write_corpus(tmp_path)
    with live_model(tmp_path / "wohk", coachhook(tmp_path, wohk=True)) as live:
        assert not live.mixes_versions
    with live_model(tmp_path / "hooks", coachhook(tmp_path)) as live:
        assert live.mixes_versions


def test_the_weights_are_read_once_for_all_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> str:
        raise AssertionError("reads all weights")

    with five_versions(tmp_path, grace()) as live:
        monkeypatch.setattr("easyedit_lifelong.edits.state_folder.model_fingerprint", refuse)
        with live.at(1) as model:
            expected = logits(model)
        assert live.roll_back(1, "key").number == 6
        assert torch.equal(logits(live.model), expected)
    monkeypatch.undo()
    with live_model(tmp_path / "edits") as live:
        assert torch.equal(logits(live.model), expected)
    monkeypatch.setattr("easyedit_lifelong.serving.live_model.model_fingerprint", lambda _: "other")
    with pytest.raises(RunError, match="other weights"), live_model(tmp_path / "edits"):
        pass


def test_the_number_of_versions_in_memory_is_limited(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        for number in range(MAX_VERSIONS + 3):
            live.add([EditRequest(f"f{number}", *FACTS[number % len(FACTS)])], "key")
        expected = {}
        for version in range(1, live.version):
            with live.at(version) as model:
                expected[version] = logits(model)
        assert len(live._earlier) == MAX_VERSIONS
        for version in (1, live.version - 1, 2):
            with live.at(version) as model:
                assert torch.equal(logits(model), expected[version])
