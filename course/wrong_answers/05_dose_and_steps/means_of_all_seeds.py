# cell: decompose
# Means over all seeds of each arm: with missing seeds the arms then have other data.
def decompose(by_seed, more, less, less_equal):
    mean = by_seed.mean()
    return {"total": mean[more] - mean[less], "steps": mean[less_equal] - mean[less],
            "dose": mean[more] - mean[less_equal]}  # fmt: skip
