# cell: wall
# Lets the ranks wait only once, at the end of all steps, for a barrier in each step.
def wall(work, barrier):
    work = np.asarray(work)
    if barrier == "micro_step":
        return work.max(axis=1).sum()
    return work.sum(axis=(0, 2)).max()
