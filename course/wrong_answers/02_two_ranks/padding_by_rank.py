# cell: padding
# The mean over the ranks: a rank with few positions counts as much as one with many.
def padding(ranks):
    return sum(1 - sum(rows) / (len(rows) * max(rows)) for rows in ranks) / len(ranks)
