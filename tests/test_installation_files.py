"""``Dockerfile`` and ``environment.yml`` name files, extras, packages and commands that exist."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import sys
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands.main import build_parser
from easyedit_lifelong.commands.serve import API_KEY, EDIT_KEY
from tests.support.documents import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
ENVIRONMENT = (ROOT / "environment.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The content of ``pyproject.toml``."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copied() -> list[str]:
    """Return the paths that the Dockerfile copies."""
    return [path for words in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for path in words.split()]


def test_the_image_gets_every_file_that_the_package_is_built_from(project: dict[str, Any]) -> None:
    build = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*build["packages"], *build["force-include"], project["project"]["readme"], "pyproject.toml"}
    assert needed | set(project["project"]["license-files"]) <= set(copied())
    assert all((ROOT / path).exists() for path in copied())
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sent) == sorted(copied())


def test_the_image_runs_a_command_of_the_package(project: dict[str, Any]) -> None:
    (entry_point,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entry_point)[0] in project["project"]["scripts"]


def test_home_and_cache_of_any_user_are_a_folder_that_any_user_can_write() -> None:
    (variables,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    values = dict(pair.split("=") for pair in variables.split())
    (writable,) = re.findall(r"mkdir --mode 1777 (.*)$", DOCKERFILE, re.MULTILINE)
    (mounted,) = {words[n + 1] for words in docker_commands() for n, word in enumerate(words) if word == "--volume"} - {
        "$PWD:/data"
    }
    assert {values["HOME"], values["XDG_CACHE_HOME"]} == {mounted.rpartition(":")[2]} <= set(writable.split())


def docker_commands() -> list[list[str]]:
    """Return the words of each ``docker run`` in the comment at the top of the Dockerfile."""
    comment = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("\nFROM ")[0]
    lines = re.sub(r"^# *", "", comment, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("docker run ")]


def test_commands_of_the_dockerfile_are_accepted_and_mount_folders_that_any_user_can_write() -> None:
    (writable,) = re.findall(r"mkdir --mode 1777 (.*)$", DOCKERFILE, re.MULTILINE)
    served = []
    for words in docker_commands():
        image = words.index("easyedit-lifelong")
        arguments = build_parser().parse_args(words[image + 1 :])
        mounted = [words[n + 1].rpartition(":")[2] for n, word in enumerate(words[:image]) if word == "--volume"]
        command = words[image + 1]
        assert sorted(mounted) == ([] if command == "doctor" else writable.split())
        assert ("--user" in words) == bool(mounted)
        served += [(arguments.host, str(arguments.port), words)] if command == "serve" else []
    ((host, port, words),) = served
    assert host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [port]
    assert f"127.0.0.1:{port}:{port}" in words
    assert {API_KEY, EDIT_KEY} <= set(words)


@pytest.mark.parametrize("text", [DOCKERFILE, ENVIRONMENT], ids=["Dockerfile", "environment.yml"])
def test_installed_extras_packages_and_python_are_those_of_the_project(text: str, project: dict[str, Any]) -> None:
    (extras,) = re.findall(r"[ \"]\.\[([\w,-]+)\]", text)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    (without_dependencies,) = re.findall(r"--no-deps --constraint constraints.txt (.*)", text)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for package in without_dependencies.split():
        assert fnmatch.filter(constraints, f"{package}==*"), package
    assert without_dependencies in (ROOT / "run.sh").read_text(encoding="utf-8")
    (version,) = re.findall(r"python[:=]([\d.]+)", text)
    assert f"Programming Language :: Python :: {version}" in project["project"]["classifiers"]


def test_the_environment_can_be_read(project: dict[str, Any]) -> None:
    environment = yaml.safe_load(ENVIRONMENT)
    assert environment["name"] == project["project"]["name"]
    *_, pip = environment["dependencies"]
    assert pip == {"pip": ["--constraint constraints.txt", ".[serve]"]}
