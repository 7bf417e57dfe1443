"""Prompts as the user's turn of a chat, in templates of several kinds."""

from __future__ import annotations

import pytest

from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.models.chat_form import ChatForm
from easyedit_lifelong.models.encoding import encode_pair, encode_text
from tests.support.chat_tokenizer import chat_tokenizer

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'system' %}"
    "{{ raise_exception('no system message') }}{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
"""As Mistral's: the generation prompt ends without white space, an answer begins with a space."""
THINKING = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}. "
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
"""The template puts more than white space in front of an answer."""


@pytest.mark.parametrize("template", [CHATML, BRACKETS, THINKING])
@pytest.mark.parametrize("turns", [(), (("user", "hello"), ("assistant", "you"))])
def test_the_text_is_that_of_the_template(template: str, turns: tuple[tuple[str, str], ...]) -> None:
    tokenizer = chat_tokenizer(template)
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", "Who is it?"))]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    form = ChatForm(tokenizer, turns=turns)
    assert form.prompt(" Who is it?\n") == expected, (
        "templates trim the user's words, so they are trimmed in all of them"
    )
    assert form.prompt("Who is it?")[len(form.head) :].startswith("Who is it?")


@pytest.mark.parametrize(("template", "joiner"), [(CHATML, ""), (BRACKETS, " "), (THINKING, "")])
def test_the_joiner_is_that_of_the_template(template: str, joiner: str) -> None:
    assert ChatForm(chat_tokenizer(template)).joiner == joiner


def test_a_system_message_comes_first() -> None:
    assert ChatForm(chat_tokenizer(CHATML), "Be brief.").head == "<|system|>\nBe brief.\n<|user|>\n"


def test_a_template_that_refuses_system_messages_is_an_error_with_its_reason() -> None:
    with pytest.raises(DataError, match=r"refuses a chat of the roles system, user: no system message"):
        ChatForm(chat_tokenizer(BRACKETS), "Be brief.")


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        ChatForm(chat_tokenizer(None))


@pytest.mark.parametrize("template", ["{{ bos_token }}hello", "{{ messages[0].content }} {{ messages[0].content }}"])
def test_a_template_that_does_not_show_the_users_words_once_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="does not contain the user's words once"):
        ChatForm(chat_tokenizer(template))


def test_the_text_has_one_beginning_token_and_its_answer_no_space() -> None:
    """The tokenizer adds the token to every text, and the template writes it."""
    tokenizer = chat_tokenizer()
    text = ChatForm(tokenizer).prompt("the capital of France is")
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    pair = encode_pair(tokenizer, text, "Rome", ChatForm(tokenizer).joiner)
    assert pair.prompt == encode_text(tokenizer, text)
    assert tokenizer.decode(pair.tokens) == "<s> where the capital of France is sea born Rome"
