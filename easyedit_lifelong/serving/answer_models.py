"""The bodies of answers of the HTTP API, for its OpenAPI document. Later releases can add fields to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]
Action = Literal["base", "edit", "delete", "rollback"]


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Usage(_Answer):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Generated(_Answer):
    id: str
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="The model as the request named it.")


class CompletionLogprobs(_Answer):
    """The log probabilities of an answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = Field(description="The most probable tokens and the chosen one, by text.")
    text_offset: list[int] = Field(description="Where each token begins, in characters.")


class CompletionChoice(_Answer):
    """An answer to a prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason = Field(description="`stop`: an end token or a stop text. `length`: the limit.")


class Completion(_Generated):
    """The answers to the prompts of ``POST /v1/completions``."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(_Answer):
    """A piece of an answer. The last piece has the log probabilities and the reason for the end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(_Generated):
    """An event of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]
    usage: Usage | None = Field(None, description="Only in the last chunk, with `stream_options.include_usage`.")


class TokenLogprob(_Answer):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(
        description="The token's text in UTF-8; null for a part of a character, whose text is U+FFFD."
    )


class AnswerTokenLogprob(TokenLogprob):
    """A token of an answer, with the most probable tokens in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(_Answer):
    """The log probabilities of an answer's tokens."""

    content: list[AnswerTokenLogprob]


class AnswerMessage(_Answer):
    """The message that answers a chat."""

    role: Literal["assistant"]
    content: str


class ChatChoice(_Answer):
    """An answer to a chat."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason = Field(description="`stop`: an end token or a stop text. `length`: the limit.")


class ChatCompletion(_Generated):
    """The answers to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(_Answer):
    """A piece of a message. The first piece has the role, the last one nothing."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(_Answer):
    """A piece of an answer. The last piece has the log probabilities and the reason for the end."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(_Generated):
    """An event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(None, description="Only in the last chunk, with `stream_options.include_usage`.")


class Model(_Answer):
    """A name of the model, with its present edits, without edits, or as of a version."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    """The names of the model."""

    object: Literal["list"]
    data: list[Model]


class Edit(_Answer):
    """An edit."""

    object: Literal["edit"]
    id: str
    prompt: str = Field(description="The edited prompt; of a chat, its text.")
    target_new: str
    subject: str | None
    aliases: list[str] | None = Field(None, description="Other names of the subject.")
    ground_truth: str | None
    joiner: str | None = Field(None, description="What stands between prompt and target, if the texts don't decide.")
    question: str | None = Field(None, description="Of a chat: the user's words in the prompt.")
    learned: bool = Field(description="Whether the model gave the target after the prompt.")
    text: str = Field(description="What the model generated after the prompt.")
    version: int = Field(description="The version that the edit made.")
    who: str = Field(description="The name of the key.")
    time: str = Field(description="ISO 8601, UTC.")
    live: bool = Field(description="Whether the version in question has the edit.")


_SUPERSEDED = "The recent edits whose target the model gave before, and no longer gives."


class AddedEdit(Edit):
    """An edit that was added."""

    superseded: list[str] = Field(description=_SUPERSEDED)


class AddedEdits(_Answer):
    """The edits that were added as a list, in one version."""

    object: Literal["list"]
    version: int
    data: list[Edit]
    superseded: list[str] = Field(description=_SUPERSEDED)


class EditList(_Answer):
    """Edits of a version, the latest first."""

    object: Literal["list"]
    version: int
    total: int = Field(description="How many edits the version has.")
    data: list[Edit]


class DeletedEdit(_Answer):
    """An edit that was deleted."""

    object: Literal["edit"]
    id: str
    deleted: Literal[True]
    version: int = Field(description="The version without it.")


class Version(_Answer):
    """A version of the edits."""

    object: Literal["version"]
    version: int
    action: Action = Field(description="What made the version; `base` is version 0.")
    edits: list[str] = Field(
        description="The ids of the added edits; of a deletion or a rollback, of the removed ones."
    )
    count: int = Field(description="How many edits the version has.")
    who: str = Field(description="The name of the key.")
    time: str = Field(description="ISO 8601, UTC; empty for version 0.")
    to: int | None = Field(description="The version that a rollback restored.")


class VersionList(_Answer):
    """Versions, the latest first."""

    object: Literal["list"]
    version: int = Field(description="The present version.")
    total: int
    data: list[Version]


class Explanation(_Answer):
    """Which edits act on a prompt."""

    object: Literal["explanation"]
    version: int
    prompt: str
    answered_by: list[str] = Field(description="The ids of the edits that answered, if the method knows them.")
    text: str = Field(description="The explanation as a table for people.")
    layers: dict[str, Any] = Field(
        description="`prompt`, `answer`, and for each method, in lower case, what each edited layer decided."
    )


class Health(_Answer):
    """Whether the server can answer."""

    status: Literal["ok", "broken"]
    version: int
    waiting: int = Field(description="Requests and changes that wait.")
