"""The bundled model's words: what its problems are made of, and what its tokenizer knows.

Knows nothing of problems or tokens: tuples of words only.
"""

NAMES = (
    "adder", "badger", "beetle", "bison", "camel", "condor", "cricket", "crow",
    "dingo", "dolphin", "eagle", "ermine", "falcon", "ferret", "finch", "gecko",
    "gibbon", "heron", "hornet", "hyena", "ibex", "iguana", "jackal", "jaguar",
    "kestrel", "koala", "lemur", "linnet", "lizard", "llama", "magpie", "marten",
    "mole", "moose", "newt", "ocelot", "osprey", "otter", "oyster", "panther",
    "pelican", "pigeon", "plover", "puffin", "python", "quail", "rabbit", "raven",
    "robin", "salmon", "seal", "shrew", "sparrow", "squid", "stoat", "swan",
    "tapir", "thrush", "tiger", "toucan", "turtle", "viper", "walrus", "weasel",
)  # fmt: skip
"""Things that hold a digit; a problem uses each at most once."""

ADJECTIVES = (
    "amber", "bright", "broken", "calm", "cold", "crooked", "distant", "empty",
    "faded", "gentle", "golden", "hollow", "narrow", "pale", "quiet", "rusty",
    "silver", "slow", "small", "steep", "tall", "warm", "wide", "wooden",
)  # fmt: skip
NOUNS = (
    "barn", "bell", "boat", "bridge", "candle", "cart", "clock", "cloud",
    "door", "field", "garden", "gate", "harbor", "hill", "lamp", "market",
    "meadow", "mill", "path", "river", "road", "stone", "tower", "window",
)  # fmt: skip
VERBS = (
    "bends", "creaks", "drifts", "fades", "glows", "hangs", "leans", "moves",
    "rests", "rises", "shines", "sinks", "sleeps", "stands", "turns", "waits",
)  # fmt: skip
PLACES = ("above", "across", "behind", "below", "beside", "near", "past", "under")

GLUE = ("answer", "from", "home", "is", "problem", "sum", "the", "then", "times", "to", "what")
"""Words of the sentences around the facts."""

PUZZLE = (
    "State", "the", "final", "answer", "to", "following", "arithmetic", "problem",
    "Spell", "this", "word", "backward", "example", "sun", "nus",
)  # fmt: skip
"""Words of puzzles that reasoning-gym poses: chain_sum and spell_backward."""
