# cell: spearman
# Gives equal values the lowest of their ranks, in place of the mean of their ranks.
def spearman(x, y):
    return np.corrcoef(stats.rankdata(x, method="min"), stats.rankdata(y, method="min"))[0, 1]
