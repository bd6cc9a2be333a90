# cell: share-of-a-seed
# Multiplies the drift by the root of 2; it is the deviation of one seed that is not yet that of a difference.
def share_of_a_seed(drift_sd, seed_sd):
    return np.sqrt(2) * drift_sd / seed_sd
