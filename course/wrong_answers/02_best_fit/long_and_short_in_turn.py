# cell: worst-order
# Takes a long and a short sequence in turn, which is the worst order only if no short one fits beside a long one.
def worst_order(lengths, capacity):
    left, order = sorted(lengths), []
    while left:
        order.append(left.pop())
        if left:
            order.append(left.pop(0))
    return order
