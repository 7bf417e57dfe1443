"""The command line accepts every command in the documents; links and paths in them exist; every name is documented."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml

from easyedit_lifelong.commands.main import build_parser
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.hparams_files import find_hparams
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs import experiment_files as experiment
from easyedit_lifelong.runs import experiment_values
from easyedit_lifelong.runs.sweep import ray_resources, sweep_grid
from easyedit_lifelong.versions import __version__
from tests.support.documents import DOCUMENTS, ROOT, code_spans, commands, rows


def text_of(*names: str) -> str:
    """Return the text of documents in ``docs``."""
    return "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in names)


def documented_commands() -> list[list[str]]:
    """Return the words of each command in the documents, but those of ``run.sh`` itself, and an option that exits."""
    found = (words for document in DOCUMENTS for words in commands(document))
    return [words for words in found if words[0] not in ("docs", "test", "--print-completion")]


def test_the_documents_contain_the_main_commands() -> None:
    expected = {"lifelong", "consecutive", "scope", "covariance", "doctor", "run", "report"}
    assert {words[0] for words in documented_commands()} >= expected


@pytest.mark.parametrize("words", documented_commands(), ids=" ".join)
def test_a_documented_command_is_accepted(words: list[str]) -> None:
    arguments = vars(build_parser().parse_args(words))
    if (arguments.get("data") or "").startswith("easyedit_lifelong/"):  # other files are the reader's
        assert (ROOT / arguments["data"]).is_file()
    if arguments.get("hparams"):
        assert find_hparams(arguments["hparams"]).is_file()
    if words[0] == "run" and arguments["file"] != "FILE" and not arguments["file"].startswith("runs/"):
        assert experiment.find_experiment(arguments["file"]).is_file()
    if words[0] == "sweep" and arguments["file"] != "GRID" and not arguments["file"].startswith("my-"):
        assert sweep_grid.find_grid(arguments["file"]).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_resolve(document: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link or (target.exists() and (not anchor or anchor in anchors(target))):
            continue
        missing.append(link)
    assert not missing


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_and_functions_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    questions = rows(text, "question")
    assert len(questions) == 15
    definitions = [(code_spans(file)[0], code_spans(decided_by)[0]) for _, file, decided_by in questions]
    definitions += [tuple(code_spans(first)[0].split(":")) for first, _ in rows(text, "function")]
    for file, name in definitions:
        source = (ROOT / "easyedit_lifelong" / file).read_text(encoding="utf-8")
        assert all(re.search(rf"\b{part}\b", source) for part in name.split(".")), (file, name)
    section = text[text.index("## Where is it decided?") : text.index("## Benchmarks")]
    for path in re.findall(r"`([\w/]+\.py)`", section):
        assert (ROOT / "easyedit_lifelong" / path).is_file(), path


def test_citation_and_changelog_have_the_package_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"version = {{{__version__}}}" in (ROOT / "README.md").read_text(encoding="utf-8")
    changes = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[0] == __version__


def test_the_readme_has_at_most_1500_words() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 1500  # a table's bars are not words


# ------------------------------------------------------------------ every name is documented


def test_exactly_the_existing_metrics_are_explained() -> None:
    table = rows(text_of("metrics.md"), "metric")
    explained = [name for row in table for name in code_spans(row[0])]
    assert sorted(explained) == sorted(METRICS)
    for first, kind, better, *_ in table:
        for name in code_spans(first):
            assert (kind, better) == (METRICS[name].kind, METRICS[name].direction), name


def test_the_readme_gives_the_kind_of_each_metric() -> None:
    table = rows((ROOT / "README.md").read_text(encoding="utf-8"), "metric")
    assert table
    for first, kind, *_ in table:
        assert {METRICS[name].kind for name in code_spans(first)} == {kind}


@pytest.mark.parametrize(
    ("command", "documents"),
    [
        ("lifelong", ["lifelong.md"]),
        ("run", ["lifelong.md"]),
        ("report", ["lifelong.md"]),
        ("compare", ["compare.md"]),
        ("sweep", ["sweep.md"]),
        ("consecutive", ["consecutive.md"]),
        ("scope", ["consecutive.md"]),
        ("covariance", ["covariance.md"]),
        ("calibrate", ["calibrate.md"]),
        ("train", ["mend.md"]),
        ("locate", ["locate.md"]),
        ("changes", ["locate.md"]),
        ("attribute", ["attribute.md"]),
        ("new-method", ["plugins.md"]),
        *((command, ["command-line.md"]) for command in ("doctor", "plugins")),
        ("serve", ["serving.md"]),
        *((command, ["edits.md"]) for command in ("edit", "generate", "export", "push", "pull")),
        *((command, ["edits.md"]) for command in ("inspect", "rollback", "merge")),
    ],
)
def test_every_option_is_explained(command: str, documents: list[str]) -> None:
    subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    text, actions = text_of(*documents), subparsers.choices[command]._actions
    options = [action.option_strings for action in actions if action.option_strings]
    for strings in options:
        if not {"--help", "--verbose", "--device"} & set(strings):
            name = re.escape(strings[0].lstrip("-")).replace(r"\-", "[-_]")  # aliases do not count
            assert re.search(rf"--{name}(?![-\w])", text), strings


def test_every_key_of_an_experiment_file_is_explained() -> None:
    text = text_of("lifelong.md")
    table = " ".join(" ".join(row) for row in rows(text, "key"))
    keys = [*experiment_values.KEYS, *experiment_values.DATA_KEYS, *experiment_values.SCHEDULE_KEYS]
    assert set(keys) - set(code_spans(table)) <= {"schema_version", "recorded", "name"}  # only in a run's own file
    assert all(f"`{key}`" in text for key in ("schema_version", "recorded", "data.name"))
    shipped = {file.stem for folder in experiment.experiment_folders() for file in folder.glob("*.yaml")}
    assert {name for row in rows(text, "name") for name in code_spans(row[0])} == shipped


def test_every_key_of_a_grid_is_explained() -> None:
    table = " ".join(" ".join(row) for row in rows(text_of("sweep.md"), "key"))
    assert {*sweep_grid.GRID_KEYS, *ray_resources.RAY_KEYS} <= set(code_spans(table))


def test_the_grid_in_the_documents_is_the_shipped_one() -> None:
    example = re.search(r"^```yaml\n(.*?)^```", text_of("sweep.md"), re.MULTILINE | re.DOTALL)
    assert example is not None
    shipped = sweep_grid.find_grid("three-methods-smollm2-135m").read_text(encoding="utf-8")
    assert yaml.safe_load(example[1]) == yaml.safe_load(shipped)


def test_every_format_and_tracker_is_explained() -> None:
    plugins, text = get_plugins(), text_of("data.md")
    formats = {row[0].strip("`"): row[-1] for row in rows(text, "format")}
    assert formats == {reader.name: reader.task for reader in plugins.readers}
    assert {row[0].strip("`") for row in rows(text, "name")} == {tracker.name for tracker in plugins.trackers}


def test_exactly_the_shipped_hyperparameter_files_are_listed() -> None:
    listed = {
        (folder, file)
        for folders, files in rows(text_of("models.md"), "folder of `hparams/`")
        for folder in code_spans(folders)
        if folder != "EasyEdit"
        for file in code_spans(files)
    }
    shipped = {(path.parent.name, path.stem) for path in (ROOT / "hparams").glob("*/*.yaml")}
    assert listed == shipped


def test_every_extra_for_users_is_listed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project[project.index("[project.optional-dependencies]") :]
    extras = re.findall(r"^([\w-]+) = \[", section[: section.index("\n[", 1)], re.MULTILINE)
    listed = {name for row in rows(text_of("command-line.md"), "extra") for name in code_spans(row[0])}
    assert listed == set(extras) - {"dev", "docs"}


def test_every_command_is_listed() -> None:
    subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    listed = [name for row in rows(text_of("command-line.md"), "command") for name in code_spans(row[0])]
    assert {name for name in listed if " " not in name} == set(subparsers.choices)
