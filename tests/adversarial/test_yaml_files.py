"""Hyperparameter and experiment files that hold anything: an error that names the file, or valid settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.parsing import parse_json, parse_yaml
from easyedit_lifelong.runs.experiment_files import read_experiment
from tests.support import thoroughness

VALUES = [
    "2001-99-99",
    '!!int ""',
    "!!float x",
    "!!bool foo",
    "!!timestamp x",
    "!!binary x",
    "!!python/object:os.system {}",
    "!!set {a, b}",
    "&a [*a]",
    "*unknown",
    "[" * 3000,
    "{a: " * 3000,
    "1" * 400,
    "1" * 5000,
    "18446744073709551616",
    "1e400",
    ".nan",
    "-.inf",
    "0x",
    "1:99:99",
    "'\\0'",
    '"\\0"',
    '"\\ud83d"',
    "\x07",
    "? [a]\n: b",
    "<<: 3",
    "",
    "[lm_head, [x]]",
    "{a: 1}",
]
NAMES = ["eps", "seed", "n_iter", "inner_params", "model_name", "device", "dist_fn", "whiten", "alg_name", "unknown"]
BASE = "alg_name: GRACE\nmodel_name: tiny\ninner_params: [model.layers.1.mlp.down_proj]\n"


def refused_or_read(path: Path) -> bool:
    """Read a file with both readers; return whether one of them refused it, always with its name."""
    refused = False
    for read in (GraceHyperParams.from_hparams, read_experiment):
        try:
            read(path)
        except HyperParameterError as error:
            refused = str(path) in str(error)
            if not refused:
                raise AssertionError(f"the message doesn't name the file: {error}") from error
    return refused


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value[:20]))
def test_hostile_values_of_every_field(tmp_path: Path, value: str) -> None:
    path = tmp_path / "file.yaml"
    for name in NAMES:
        path.write_bytes(f"{BASE}{name}: {value}\n".encode("utf-8", "surrogatepass"))
        refused_or_read(path)


@settings(
    max_examples=800 if thoroughness.full else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lines=st.lists(
        st.tuples(st.sampled_from([*NAMES, "", "- ", "  "]), st.one_of(st.sampled_from(VALUES), st.text(max_size=8))),
        max_size=4,
    ),
    tail=st.binary(max_size=8),
)
def test_any_lines(tmp_path: Path, lines: list[tuple[str, str]], tail: bytes) -> None:
    text = BASE + "".join(f"{name}: {value}\n" for name, value in lines)
    path = tmp_path / "file.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    refused_or_read(path)


def test_many_unknown_keys_are_counted_and_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(BASE + "".join(f"unknown_key_{n}: 1\n" for n in range(2000)))
    with pytest.raises(HyperParameterError, match=r"'unknown_key_9'; 1990 more unknown hyperparameters$"):
        GraceHyperParams.from_hparams(path)


def test_a_nul_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(BASE + 'device: "a\\0b"\n')
    for read in (GraceHyperParams.from_hparams, read_experiment):
        with pytest.raises(HyperParameterError, match="line 4: a text holds a NUL character"):
            read(path)


def test_a_key_that_is_given_twice_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "file.yaml") == {"a": 3, "b": {"c": 2}}
    assert [record.getMessage() for record in caplog.records] == [
        "file.yaml, line 3: 'a' is given more than once; the last value counts",
        "file.yaml, line 2: 'c' is given more than once; the last value counts",
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "", "{", b"\xff", '{"a": NaN'])
def test_text_that_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the callers' messages name the file
        parse_json(text)
