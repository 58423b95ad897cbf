"""The bundled model's tokenizer: one token for each known word, digit, letter and sign.

Knows nothing of problems. A word carries the space before it (" otter"), so decoding is joining.
Needs `tokenizers`; only building needs this file, the saved tokenizer.json needs nothing of it.
"""

import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from snello.bundled.words import ADJECTIVES, COUNTING, GLUE, NAMES, NOUNS, PLACES, SUM, VERBS

SPECIAL = ("<|pad|>", "<|unk|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
THOUGHT = ("<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer; its vocabulary is fixed by `words.py` and this file."""
    words = sorted({*NAMES, *ADJECTIVES, *NOUNS, *VERBS, *PLACES, *GLUE, *SUM, *COUNTING})
    signs = [c for c in string.printable if not c.isspace()]
    pieces = [space + piece for piece in [*words, *signs] for space in (" ", "")]
    vocabulary = dict.fromkeys([*SPECIAL, *THOUGHT, *pieces, " ", "\n"])
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<|unk|>")
    )
    known = "|".join(sorted(words, key=len, reverse=True))
    pattern = rf" ?(?:{known})(?![A-Za-z])| ?[^\s]|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THOUGHT])
    return tokenizer
