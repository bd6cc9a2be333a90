# cell: holm
# Takes the minimum over the larger p values (Hochberg) in place of the maximum over the smaller ones.
def holm(p):
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    stepped = np.minimum.accumulate((factors * p[order])[::-1])[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, stepped)
    return adjusted
