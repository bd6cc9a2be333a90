# cell: worst-order
# All long sequences first: the short ones behind them then share packs.
def worst_order(lengths, capacity):
    return sorted(lengths, reverse=True)
