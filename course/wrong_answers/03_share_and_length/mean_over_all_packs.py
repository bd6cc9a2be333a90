# cell: long-share
# Takes the mean over all packs of the epoch for Eq. 3, so a last step with fewer packs counts less than a step.
def long_share(plan, N, long, rule):
    if rule == "eq2":
        return np.mean([np.mean([long[i] for row in step.rows for i in row]) for step in plan.steps])
    of_packs = []
    for step in plan.steps:
        for row in step.rows:
            inside = np.array(row)
            of_packs.append((N[inside] * long[inside]).sum() / N[inside].sum())
    return np.mean(of_packs)
