# cell: smooth
# The average begins at the first value, and not at zero.
def smooth(values, beta):
    found = [values[0]]
    for value in values[1:]:
        found.append(beta * found[-1] + (1 - beta) * value)
    return np.array(found)
