# cell: engine-factor
# The division by the accumulation is not undone.
def engine_factor(ranks, accumulation):
    return ranks
