"""What kind of token a piece of text is. Knows nothing of models or memory."""

import re
from typing import Literal, get_args

from snello.bundled.words import NAMES

Kind = Literal["special", "digit", "name", "word", "sign", "space"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PLURALS: dict[Kind, str] = {
    "special": "special tokens",
    "digit": "digits",
    "name": "names",
    "word": "words",
    "sign": "signs",
    "space": "spaces",
}
_SPECIAL = re.compile(r"<[|/\w][^<>\s]*>|\[[A-Z_]{2,}\]")
_NAMES = frozenset(NAMES)


def find_kind(text: str) -> Kind:
    """Return the kind of one token's text.

    A name begins with a capital letter, or is one of the bundled problems' own; a sign has neither
    letters nor digits.
    """
    bare = text.strip()
    if not bare:
        return "space"
    if _SPECIAL.fullmatch(bare):
        return "special"
    if bare.isnumeric():
        return "digit"
    if not any(character.isalnum() for character in bare):
        return "sign"
    return "name" if bare[0].isupper() or bare in _NAMES else "word"
