# cell: time-to-90
# 90 % of the highest value, and not of the last one.
def time_to_90(share, values):
    grid = np.linspace(0, 1, 10_001)
    return grid[np.argmax(np.interp(grid, share, values) >= 0.9 * np.max(values))]
