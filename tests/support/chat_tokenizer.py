"""A tokenizer of whole words with a chat template, which begins every text with the beginning-of-text token."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import build_tokenizer, with_beginning_token

TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }} . {% else %}"
    "{{ 'where' if message.role == 'user' else 'born' }} {{ message.content | trim }} sea {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}born {% endif %}"
)
"""A template of words that the tokenizer knows: a turn of the user begins with "where", one of the assistant with
"born", and both end with "sea"."""


def chat_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a new tokenizer with a chat template."""
    tokenizer = with_beginning_token(build_tokenizer())
    tokenizer.chat_template = template
    return tokenizer
