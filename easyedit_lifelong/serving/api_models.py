"""The bodies of requests to the HTTP API. A field that is not listed is an error, not ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_EDITS, MAX_PROMPTS, MAX_ANSWERS = 100, 64, 64
_SEED_LIMIT = 2**63 - 1


def _check_encodable(text: str) -> str:
    """Check that a text has no lone surrogate, which JSON can hold and a tokenizer refuses."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("string_unicode", "has a lone surrogate, which is no character") from error
    return text


String = Annotated[str, AfterValidator(_check_encodable)]
Text = Annotated[String, Field(min_length=1)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Neutral = Annotated[float, Field(ge=0, le=0, description="Only 0 is supported.")]


def _as_text(value: Any) -> Any:
    """Return a number as text; EasyEdit's ``case_id`` may be one."""
    return str(value) if type(value) is int and abs(value) < 10**18 else value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool = False


class SamplingFields(_Body):
    """What completions and chats have in common."""

    model: String = Field(
        description="`NAME`: with the present edits; `NAME@base`: without; `NAME@v12`: as of version 12."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0: the most probable token. Default 1.")
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-_SEED_LIMIT, le=_SEED_LIMIT)
    n: int | None = Field(None, ge=1, le=16, description="The number of answers.")
    stop: Text | Annotated[list[Text], Field(max_length=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Neutral | None = None
    presence_penalty: Neutral | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: String | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a streamed answer ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingFields):
    """The body of ``POST /v1/completions``."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="Default 16, or what fits.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [list(self.prompt)]
        return list(self.prompt)


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: String


class Message(_Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: String | Annotated[list[TextPart], Field(max_length=64)]
    name: String | None = None

    def plain(self) -> dict[str, str]:
        """Return the message as chat templates read it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


Messages = Annotated[list[Message], Field(min_length=1, max_length=1000)]


class ChatRequest(SamplingFields):
    """The body of ``POST /v1/chat/completions``."""

    messages: Messages
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class _Asked(_Body):
    """A body that has either a prompt or the messages of a chat."""

    prompt: Text | None = None
    messages: Messages | None = Field(None, description="A chat, instead of a prompt.")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        """Check that there is one of both."""
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("prompt_or_messages", "give either prompt or messages")
        return self

    @property
    def chat(self) -> list[dict[str, str]] | None:
        """The messages as chat templates read them; None for a prompt."""
        return None if self.messages is None else [message.plain() for message in self.messages]


class EditBody(_Asked):
    """A fact to edit: a prompt, or a chat that ends with a message of the user, and its new answer."""

    target_new: Text = Field(description="The answer that the model should give.")
    subject: String | None = Field(
        None, description="The words of the prompt, or of the last message, that name the entity."
    )
    aliases: Text | Annotated[list[Text], Field(max_length=20)] | None = Field(
        None, description="Other names of the subject."
    )
    ground_truth: String | None = None
    rephrase_prompt: Text | Annotated[list[Text], Field(max_length=20)] | None = None
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"), BeforeValidator(_as_text)] | None = Field(
        None,
        validation_alias=AliasChoices("id", "case_id"),
        description="An id that no earlier edit has. Default: `edit-N`.",
    )

    def record(self, edit_id: str) -> dict[str, Any]:
        """Return the request fields of the edit. In a chat, the prompt is the content of the last message."""
        fields = ("target_new", "subject", "aliases", "ground_truth", "rephrase_prompt")
        record = {name: value for name in fields if (value := getattr(self, name)) is not None}
        return {"case_id": edit_id, "prompt": self.chat[-1]["content"] if self.chat else self.prompt, **record}


EditBodies = EditBody | Annotated[list[EditBody], Field(min_length=1, max_length=MAX_EDITS)]


class RollbackBody(_Body):
    """The body of ``POST /v1/edits/rollback``."""

    to: int = Field(ge=0, lt=2**31, description="The version whose edits are restored. 0: none.")


class ExplainBody(_Asked):
    """The body of ``POST /v1/explain``."""

    model: String | None = Field(None, description="As in a completion. Default: the present version.")
