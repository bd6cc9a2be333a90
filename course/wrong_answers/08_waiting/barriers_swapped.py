# cell: wall
# The sum and the maximum change places.
def wall(work, barrier):
    if barrier == "step":
        return work.max(axis=1).sum()
    return work.sum(axis=2).max(axis=1).sum()
