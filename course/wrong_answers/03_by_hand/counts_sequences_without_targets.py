# cell: eq2
# A sequence without targets is counted in M, so every other one gets too little.
def eq2(N, L):
    return np.sum(L / np.maximum(N, 1)) / len(N)
