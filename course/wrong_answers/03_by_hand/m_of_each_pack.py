# cell: eq4
# M is counted within each pack, and not over the whole step.
def eq4(N, L, packs):
    means = np.divide(L, N, out=np.zeros(len(N)), where=N > 0)
    of_packs = [means[pack].sum() / np.count_nonzero(N[pack]) for pack in packs]
    return of_packs, np.mean(of_packs)
