# cell: eq3
# Within a pack the means of the sequences are averaged; Eq. 3 averages over all tokens of the pack.
def eq3(N, L, packs):
    means = np.divide(L, N, out=np.zeros(len(N)), where=N > 0)
    return np.mean([means[pack].mean() for pack in packs])
