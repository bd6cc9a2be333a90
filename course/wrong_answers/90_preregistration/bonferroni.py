# cell: holm
# Every p value is multiplied by the number of claims: this is Bonferroni's method.
def holm(p):
    return np.minimum(1, np.asarray(p) * len(p))
