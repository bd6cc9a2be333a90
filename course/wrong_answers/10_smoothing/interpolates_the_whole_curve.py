# cell: time-to-90
# Reads the share off with np.interp over the whole curve, which is right only for a curve that never falls.
def time_to_90(share, values):
    return float(np.interp(0.9 * values[-1], values, share))
