# cell: long-shares
# The targets are divided by all tokens, as if every token were trained on.
def long_shares(lengths, targets, long):
    tokens = lengths.sum()
    return {"samples": long.mean(), "tokens": lengths[long].sum() / tokens, "targets": targets[long].sum() / tokens}
