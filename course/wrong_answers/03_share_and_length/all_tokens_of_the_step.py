# cell: long-share
# For Eq. 3 the targets are taken over the whole step, as if it were one pack.
def long_share(plan, N, long, rule):
    found = []
    for step in plan.steps:
        inside = list(step.sequences)
        found.append(long[inside].mean() if rule == "eq2" else N[inside][long[inside]].sum() / N[inside].sum())
    return np.mean(found)
