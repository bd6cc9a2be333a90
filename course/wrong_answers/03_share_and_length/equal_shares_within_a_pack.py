# cell: long-share
# Gives the sequences of a pack equal shares under Eq. 3, in place of shares in proportion to their targets.
def long_share(plan, N, long, rule):
    of_steps = []
    for step in plan.steps:
        if rule == "eq2":
            of_steps.append(np.mean([long[i] for row in step.rows for i in row]))
        else:
            of_steps.append(np.mean([np.mean([long[i] for i in row]) for row in step.rows]))
    return np.mean(of_steps)
