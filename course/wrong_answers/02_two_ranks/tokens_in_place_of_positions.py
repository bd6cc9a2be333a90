# cell: waiting
# Padding is computed, too: a rank takes as long as its positions, not as its tokens.
def waiting(ranks):
    work = [sum(rows) for rows in ranks]
    return 1 - sum(work) / (len(ranks) * max(work))
