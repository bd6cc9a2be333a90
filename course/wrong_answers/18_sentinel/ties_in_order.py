# cell: spearman
# Equal values get different ranks, by their place.
def spearman(x, y):
    return np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1]
