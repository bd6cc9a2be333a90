# cell: can-separate
# Asks for two arms with the same dose and other steps; that is not enough for beta, and there are other ways.
def can_separate(arms):
    return any(one[0] == other[0] and one[1] != other[1] for k, one in enumerate(arms) for other in arms[k + 1 :])
