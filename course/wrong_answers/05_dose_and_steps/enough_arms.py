# cell: can-separate
# Three unknowns, three arms: but they may lie on a line.
def can_separate(arms):
    return len(set(arms)) >= 3
