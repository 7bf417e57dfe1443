"""Hypothesis strategies for the requests of an OpenAPI document: valid ones, and ones with faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]

_NUMBER = st.one_of(st.integers(-3, 70), st.integers(), st.floats(), st.just(10**400))
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBER, st.text(max_size=8), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)
_LARGEST = 2**31


@dataclass(frozen=True)
class Operation:
    """An operation of a document.

    Attributes:
        method: its HTTP method, in capitals.
        path: its path, with the names of parameters in braces.
        parameters: the schema of each parameter, by where it is (``path`` or ``query``) and by its name.
        body: the schema of the body; None if it has none.
    """

    method: str
    path: str
    parameters: Mapping[tuple[str, str], Schema]
    body: Schema | None

    def __str__(self) -> str:
        """Return method and path."""
        return f"{self.method} {self.path}"


def operations_of(document: Schema) -> list[Operation]:
    """Return all operations of a document."""
    return [
        Operation(
            method.upper(),
            path,
            {(entry["in"], entry["name"]): entry["schema"] for entry in operation.get("parameters", ())},
            operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"),
        )
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


class Values:
    """Strategies for the values of a document's schemas.

    Args:
        document: the document.
        likely: further values of fields, by the field's name: such that a request can succeed.
        fault: how many of the values of fields are not from their schema: one of this many.
    """

    def __init__(self, document: Schema, likely: Mapping[str, st.SearchStrategy[Any]], fault: int = 16) -> None:
        self._schemas, self._likely, self._fault = document["components"]["schemas"], likely, fault

    def of(self, schema: Schema) -> st.SearchStrategy[Any]:
        """Return a strategy for the values of a schema."""
        if "$ref" in schema:
            return self.of(self._schemas[schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return st.one_of(*map(self.of, schema["anyOf"]))
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        return getattr(self, f"_{schema['type']}")(schema)

    def field(self, name: str, schema: Schema) -> st.SearchStrategy[Any]:
        """Return a strategy for the values of a field; some of them are not valid."""
        usual = [self._likely[name]] * 3 if name in self._likely else []
        strategies = [*usual, self.of(schema)]
        faulty = st.sampled_from([*[False] * (self._fault - 1), True])  # the first entry is drawn most often
        return faulty.flatmap(lambda is_faulty: ANY_JSON if is_faulty else st.one_of(*strategies))

    def _null(self, _: Schema) -> st.SearchStrategy[Any]:
        return st.none()

    def _boolean(self, _: Schema) -> st.SearchStrategy[Any]:
        return st.booleans()

    def _string(self, schema: Schema) -> st.SearchStrategy[Any]:
        if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
        return st.text(min_size=schema.get("minLength", 0), max_size=8)

    def _integer(self, schema: Schema) -> st.SearchStrategy[Any]:
        least, most = int(schema.get("minimum", -_LARGEST)), int(schema.get("maximum", _LARGEST))
        return st.one_of(st.integers(least, min(most, least + 3)), st.integers(least, most))

    def _number(self, schema: Schema) -> st.SearchStrategy[Any]:
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)

    def _array(self, schema: Schema) -> st.SearchStrategy[Any]:
        least = schema.get("minItems", 0)
        return st.lists(self.of(schema["items"]), min_size=least, max_size=min(schema.get("maxItems", 3), least + 2))

    def _object(self, schema: Schema) -> st.SearchStrategy[Any]:
        fields = {name: self.field(name, entry) for name, entry in schema.get("properties", {}).items()}
        required = schema.get("required", ())
        whole = st.fixed_dictionaries(
            {name: fields[name] for name in required},
            optional={name: value for name, value in fields.items() if name not in required},
        )
        # Few optional fields at a time: a request with all of them has a fault nearly always.
        names = [*fields, *(name for name in fields if name in self._likely for _ in range(3)), "other"]
        few = st.lists(st.sampled_from(names), max_size=3).flatmap(
            lambda names: st.fixed_dictionaries(
                {name: fields.get(name, ANY_JSON) for name in dict.fromkeys([*required, *names])}
            )
        )
        return st.one_of(few, few, few, whole) if fields else st.just({})
