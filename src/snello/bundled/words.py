"""The bundled model's words: what its problems are made of, and what its tokenizer knows.

Knows nothing of problems or tokens: tuples of words only.
"""

NAMES = (
    "adder", "badger", "bison", "bobcat", "camel", "condor", "cougar", "crow",
    "dingo", "dolphin", "eagle", "ermine", "falcon", "ferret", "finch", "gecko",
    "gibbon", "heron", "hornet", "hyena", "ibex", "iguana", "jackal", "jaguar",
    "kestrel", "koala", "lemur", "linnet", "lizard", "llama", "magpie", "marten",
    "mole", "moose", "newt", "ocelot", "osprey", "otter", "oyster", "panther",
    "pelican", "pigeon", "plover", "puffin", "python", "quail", "rabbit", "raven",
    "robin", "salmon", "seal", "shrew", "sparrow", "squid", "stoat", "swan",
    "tapir", "thrush", "toucan", "turtle", "viper", "walrus", "weasel", "wombat",
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

SUM = ("State", "the", "final", "answer", "to", "following", "arithmetic", "problem")
"""Words of reasoning-gym's chain_sum."""

LEGS = {
    "snake": 0, "sea slug": 0, "jellyfish": 0, "flatworm": 0, "leech": 0, "chicken": 2, "bird": 2,
    "human": 2, "duck": 2, "dog": 4, "cat": 4, "cow": 4, "horse": 4, "lion": 4, "elephant": 4,
    "giraffe": 4, "tiger": 4, "deer": 4, "sheep": 4, "starfish": 5, "insect": 6, "ant": 6,
    "butterfly": 6, "beetle": 6, "bee": 6, "wasp": 6, "grasshopper": 6, "cricket": 6,
    "cockroach": 6, "praying mantis": 6, "firefly": 6, "spider": 8, "scorpion": 8, "crab": 10,
    "lobster": 10, "shrimp": 10, "woodlouse": 14,
}  # fmt: skip
"""The animals of reasoning-gym's leg_counting, and how many legs it gives each."""

COUNTING = (
    "Your", "task", "is", "to", "count", "how", "many", "legs", "there", "are", "in", "total",
    "when", "given", "a", "list", "of", "animals", "Now", "if", "you", "have",
    *(word + ending for name in LEGS for word in name.split() for ending in ("", "s")),
)  # fmt: skip
"""Words of reasoning-gym's leg_counting, which puts an s behind any animal."""
