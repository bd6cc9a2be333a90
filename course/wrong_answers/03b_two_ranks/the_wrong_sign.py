# cell: engine-factor
# The step goes uphill: a norm alone would not show it.
def engine_factor(ranks, accumulation):
    return -ranks * accumulation
