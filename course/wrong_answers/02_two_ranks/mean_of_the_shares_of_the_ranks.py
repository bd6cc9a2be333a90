# cell: padding
# Takes the mean of the padding shares of the ranks, as if every rank computed as many positions as the others.
def padding(ranks):
    return sum(1 - sum(rows) / (len(rows) * max(rows)) for rows in ranks) / len(ranks)
