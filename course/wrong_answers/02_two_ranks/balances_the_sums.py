# cell: pairs
# Makes the sums of the two ranks equal, which helps only if they wait once for all three micro-steps.
pairs = [(2, 8), (9, 2), (3, 4)]
