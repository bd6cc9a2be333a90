"""The facts that documents of tests are made of, and the tokenizer that counts their words."""

from longalign.miniature import tokenizer as miniature

WORDS = miniature.load()
FACTS = [f"{name} keeps {number} lanterns in the {place}." for name, number, place in zip(
    ("Marlow", "Calis", "Bardan", "Pelton", "Holvik", "Selton", "Lormund", "Barton"), range(2, 10),
    ("tower", "harbour", "granary", "cellar", "chapel", "market", "orchard", "library"), strict=True)]  # fmt: skip
