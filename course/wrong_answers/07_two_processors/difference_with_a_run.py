# cell: share-of-a-seed
# A difference of two runs is compared with one run.
def share_of_a_seed(drift_sd, seed_sd):
    return drift_sd / seed_sd
