# cell: eq3
# Weights the packs by their targets, so the mean over packs becomes the mean over all targets of the step.
def eq3(N, L, packs):
    return sum(L[i] for pack in packs for i in pack) / sum(N[i] for pack in packs for i in pack)
