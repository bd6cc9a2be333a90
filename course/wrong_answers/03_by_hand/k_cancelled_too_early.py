# cell: eq4
# Cancels K beforehand: the mean is right, but the numbers of the packs lack the factor K.
def eq4(N, L, packs):
    M = sum(1 for n in N if n > 0)
    of_packs = [sum(L[i] / (N[i] * M) for i in pack if N[i] > 0) for pack in packs]
    return of_packs, sum(of_packs)
