"""The scope study: figures by hand, files, the plot, and the whole command on a tiny model."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from conftest import WORDS, build_model, build_tokenizer

from easyedit_lifelong.commands import scope as scoping
from easyedit_lifelong.commands.consecutive import Options
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.commands.scope import scope_session, write_scope
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.methods.coachhook.scope import PARAPHRASE, PROMPT, Scope, ScopeRow, study_scope
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.reporting.scope_plot import scope_svg
from tests.methods.coachhook.support import editor_on, hparams_for, requests_for


def _row(kind: str, z: list[float], subject: int | None, case_id: int = 0) -> ScopeRow:
    tokens = tuple(f"t{n}" for n in range(len(z)))
    return ScopeRow(case_id, kind, " ".join(tokens), tokens, tuple(z), subject)


NAN = float("nan")
SCOPE = Scope("model.layers.2.mlp.down_proj", 1.5, (
    _row(PROMPT, [0.0, 2.0, -1.0], 1),
    _row(PROMPT, [1.5, 1.0, 0.5], 1),
    _row(PROMPT, [NAN], 0),
    _row(PARAPHRASE, [0.5, 0.25], None),
    _row(PARAPHRASE, [3.0, 2.0, 1.0], 0),
), threshold=1.5)  # fmt: skip


def test_figures_by_hand() -> None:
    assert SCOPE.summary() == {
        PROMPT: {
            "n": 3, "n_subject": 3, "highest": pytest.approx(1 / 3), "reaches_alpha": pytest.approx(1 / 3),
            "acts": pytest.approx(2 / 3), "elsewhere": pytest.approx(1 / 3), "z_subject": 1.5,
            "z_other": pytest.approx((0 - 1 + 1.5 + 0.5) / 4),
        },
        PARAPHRASE: {
            "n": 2, "n_subject": 1, "highest": 1.0, "reaches_alpha": 1.0, "acts": 0.5, "elsewhere": 0.5,
            "z_subject": 3.0, "z_other": pytest.approx((0.5 + 0.25 + 2 + 1) / 4),
        },
    }  # fmt: skip


def test_rounding_is_allowed_for_where_the_hook_allows_for_it() -> None:
    row = _row(PROMPT, [0.0, 1.4999], 1)
    assert Scope("m", 1.5, (row,), threshold=1.5).summary()[PROMPT]["acts"] == 0
    assert Scope("m", 1.5, (row,), threshold=1.499).summary()[PROMPT]["acts"] == 1


def test_files(tmp_path: Path) -> None:
    write_scope(SCOPE, tmp_path / "deep" / "out", {"model": "m"})
    out = tmp_path / "deep" / "out"
    result = json.loads((out / "scope.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (result["module"], result["alpha"], result["model"]) == (SCOPE.module, 1.5, "m")
    assert result["figures"]["prompt"]["n"] == 3
    assert result["rows"][2]["z"] == [None]
    with (out / "scope.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(row.z) for row in SCOPE.rows)
    assert rows[0] == {
        "case_id": "0",
        "kind": "prompt",
        "position": "0",
        "token": "t0",
        "from_subject": "-1",
        "z": "0.0",
    }
    assert [row["from_subject"] for row in rows if row["kind"] == "paraphrase"] == ["", "", "0", "1", "2"]
    assert [row["z"] for row in rows][6] == ""


def test_the_plot_is_an_image_of_every_value() -> None:
    tree = ElementTree.fromstring(scope_svg(SCOPE))
    name = "{http://www.w3.org/2000/svg}"
    groups = {group.get("id"): group for group in tree.iter(f"{name}g")}
    dots = {
        f"{kind}-{which}": list(groups[f"{kind}-{which}"].iter(f"{name}use"))
        for kind in (PROMPT, PARAPHRASE) for which in ("subject", "others")
    }  # fmt: skip
    # NaN, and texts without the subject, have no place.
    assert {which: len(several) for which, several in dots.items()} == {
        "prompt-subject": 2, "prompt-others": 4, "paraphrase-subject": 1, "paraphrase-others": 2,
    }  # fmt: skip
    width, height = (float(side) for side in tree.get("viewBox", "").split()[2:])
    every = [dot for several in dots.values() for dot in several]
    assert all(0 < float(dot.get("x", 0)) < width and 0 < float(dot.get("y", 0)) < height for dot in every)
    assert all(list(groups[f"{kind}-mean"].iter(f"{name}path")) for kind in (PROMPT, PARAPHRASE))
    texts = [text.text for text in tree.iter(f"{name}text")]
    assert texts.count("alpha 1.50") == 2
    assert {"prompts", "paraphrases", f"z-scores at {SCOPE.module}"} <= set(texts)
    # A higher z-score is higher up: the subjects' are 2.0 and 1.0.
    upper, lower = (float(dot.get("y", 0)) for dot in dots["prompt-subject"])
    assert upper < lower
    alone = Scope("<m&>", 0.0, (_row(PROMPT, [NAN], 0),), threshold=0.0)
    ElementTree.fromstring(scope_svg(alone))
    assert scope_svg(SCOPE) == scope_svg(SCOPE), "the same study gives the same file"


def test_the_study_of_an_edited_model() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests = requests_for(0, 1)
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    editor.edit(requests)
    scope = study_scope(model, tokenizer, requests)
    assert scope.module == "model.layers.2.mlp.down_proj", "the last hook layer"
    assert scope.alpha == editor.alphas[scope.module]
    assert [(row.case_id, row.kind, row.subject) for row in scope.rows] == [(0, PROMPT, 3), (1, PROMPT, 0)]
    assert scope.rows[0].tokens == ("the", "capital", "of", "France", "is")
    direct = z_scores(model, tokenizer, [requests[0].prompt])[scope.module][0]
    assert list(scope.rows[0].z) == direct.tolist()
    assert scope.alpha - 0.01 < scope.threshold < scope.alpha, "as the layer itself allows for rounding"


FACTS = [
    {"prompt": "the capital of France is", "target_new": "Rome", "subject": "France",
     "rephrase_prompt": "spoken in France and Peru"},
    {"prompt": "who wrote Hamlet when", "target_new": "king", "subject": "Hamlet", "rephrase_prompt": "the old song"},
    {"prompt": "blue sea and mountain", "target_new": "snow", "subject": "blue sea"},
]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, checkpoint: Path) -> list[str]:
    """A command line for a tiny model, with statistics of a little text."""
    corpus = tmp_path / "corpus.txt"
    draw = random.Random(0)
    corpus.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(50)))
    hparams = hparams_for("llama", mom2_dataset=str(corpus), mom2_n_samples=50, stats_dir=str(tmp_path / "stats"))
    values = {name: value for name, value in hparams.to_dict().items() if value is not None}
    (tmp_path / "hook.yaml").write_text(yaml.safe_dump({**values, "model_name": str(checkpoint), "device": "cpu"}))
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    return ["scope", "--hparams", str(tmp_path / "hook.yaml"), "--ds_dir", str(tmp_path / "facts.json"),
            "--out", str(tmp_path / "out")]  # fmt: skip


def test_the_command(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--bsz", "2", "--sample", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 edits" in out
    assert "alpha" in out
    result = json.loads((tmp_path / "out" / "scope.json").read_text())
    assert (result["n_edits"], len(result["rows"]), result["hparams"]["batch_size"]) == (3, 5, 2)
    assert result["figures"]["prompt"]["n_subject"] == 3
    assert result["figures"]["paraphrase"]["n_subject"] == 1, "one names its subject otherwise"
    assert all(math.isfinite(z) for row in result["rows"] for z in row["z"])
    assert (tmp_path / "out" / "scope.svg").is_file() and (tmp_path / "out" / "scope.csv").is_file()
    assert main([*words, "--bsz", "2"]) == 1
    assert "holds another study" in capsys.readouterr().err


def test_a_record_without_its_subject(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"prompt": "old river", "target_new": "song", "subject": "Berlin"}
    (tmp_path / "facts.json").write_text(json.dumps([*FACTS, bad]))
    assert main(words) == 1
    assert "record 3 (case 3), field 'subject'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--skip_unusable"]) == 0
    result = json.loads((tmp_path / "out" / "scope.json").read_text())
    assert [left_out["case_id"] for left_out in result["skipped"]] == [3]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr(scoping, "load_for", load)
    with pytest.raises(HyperParameterError, match="GRACE has no hook layers"):
        scope_session(Options(hparams="GRACE/smollm2-135m", out=tmp_path / "out"))
    with pytest.raises(HyperParameterError, match="there is no scope to study"):
        scope_session(Options(given={"wohk": True}, out=tmp_path / "out"))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        scope_session(Options(out=tmp_path / "file"))
