# cell: local-m
# Returns the weights in the order of the packs, which is the order of N only if the packs are in order too.
def local_m(N, packs):
    return np.array([1 / (N[i] * len(pack) * len(packs)) for pack in packs for i in pack])
