"""Plain-Python twins of the kernels, written from the rules and not from the kernels.

Slow on purpose: every cell is a tuple (z, y, x, type), every set of cells a Python object, nothing is skipped. Volumes up
to 7 voxels a side are what they are for.
"""

import itertools
import math
from collections import Counter

import numpy as np

# The voxels of a cell relative to its position, for each type.
EDGES = [((0, 0, 0), (1, 0, 0)), ((0, 0, 0), (0, 1, 0)), ((0, 0, 0), (0, 0, 1))]
SQUARES = [
    ((0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)),
    ((0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)),
    ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)),
]
CUBES = [tuple(itertools.product((0, 1), repeat=3))]


def list_cells(shape, kinds):
    """List the cells of a block in raster order with the voxels of each: [((z, y, x, type), [voxels])]."""
    found = []
    for z, y, x in itertools.product(*map(range, shape)):
        for kind, offsets in enumerate(kinds):
            voxels = [(z + dz, y + dy, x + dx) for dz, dy, dx in offsets]
            if all(c < size for voxel in voxels for c, size in zip(voxel, shape)):
                found.append(((z, y, x, kind), voxels))
    return found


def cell_value(mask, voxels):
    """Return 0 for a foreground cell (all of its voxels are), else 1."""
    return 0 if all(mask[voxel] for voxel in voxels) else 1


class Forest:
    """Union-find without any cleverness: a name for each node."""

    def __init__(self, nodes):
        self.name = {node: node for node in nodes}

    def find(self, node):
        """Return the root."""
        while self.name[node] != node:
            node = self.name[node]
        return node


def pair_components(union, part):
    """Return {birth voxel: death edge} of a part's components in a union (the part itself: its own bars)."""
    voxels = list(itertools.product(*map(range, union.shape)))
    forest = Forest(voxels)
    eldest = {voxel: (0 if part[voxel] else 1, voxel) for voxel in voxels}
    edges = list_cells(union.shape, EDGES)
    pairs = {}
    for value in (0, 1):
        for edge, ends in edges:
            if cell_value(union, ends) != value:
                continue
            first, second = (forest.find(end) for end in ends)
            if first == second:
                continue
            elder, younger = sorted([eldest[first], eldest[second]])
            forest.name[second] = first
            eldest[first] = elder
            if value == 1 and younger[0] == 0:
                pairs[(*younger[1], 0)] = edge
    return pairs


def pair_cavities(union, part):
    """Return {birth square: death cube} of a part's cavities in a union (the part itself: its own bars)."""
    shape = union.shape
    outside = (math.inf,)
    cubes = list_cells(shape, CUBES)
    part_value = {cube: cell_value(part, voxels) for cube, voxels in cubes} | {outside: 2}
    union_value = {cube: cell_value(union, voxels) for cube, voxels in cubes} | {outside: 2}
    forest = Forest(part_value)
    root_by_part = {cube: (value, cube) for cube, value in part_value.items()}
    root_by_union = {cube: (value, cube) for cube, value in union_value.items()}
    squares = list_cells(shape, SQUARES)
    pairs = {}
    for value in (1, 0):
        for (z, y, x, kind), voxels in reversed(squares):
            if cell_value(part, voxels) != value:
                continue
            before = [z, y, x]
            before[kind] -= 1
            sides = [(*position, 0) for position in (before, [z, y, x])]
            first, second = (forest.find(side if side in part_value else outside) for side in sides)
            if first == second:
                continue
            younger = min(root_by_part[first], root_by_part[second])
            if younger[0] != value:
                pairs[(z, y, x, kind)] = min(root_by_union[first], root_by_union[second])[1]
            forest.name[second] = first
            for root in (root_by_part, root_by_union):
                root[first] = max(root[first], root[second])
    return pairs


def pair_tunnels(union, part):
    """Return {birth edge: death square} of a part's tunnels in a union (the part itself: its own bars).

    Columns are the squares in the union's order, rows the edges in the part's order. A column is an integer whose bits are
    rows, so that its highest bit is its pivot.
    """
    shape = union.shape
    edges = sorted(list_cells(shape, EDGES), key=lambda cell: (cell_value(part, cell[1]), cell[0]))
    row = {frozenset(voxels): number for number, (_, voxels) in enumerate(edges)}
    squares = sorted(list_cells(shape, SQUARES), key=lambda cell: (cell_value(union, cell[1]), cell[0]))
    by_pivot, pairs = {}, {}
    for square, voxels in squares:
        column = 0
        for pair in itertools.combinations(voxels, 2):
            if frozenset(pair) in row:
                column ^= 1 << row[frozenset(pair)]
        while column and column.bit_length() in by_pivot:
            column ^= by_pivot[column.bit_length()]
        if column:
            by_pivot[column.bit_length()] = column
            edge, ends = edges[column.bit_length() - 1]
            if cell_value(part, ends) == 0 and cell_value(union, voxels) == 1:
                pairs[edge] = square
    return pairs


PAIRINGS = (pair_components, pair_tunnels, pair_cavities)


def match_features(prediction, label):
    """Return for each dimension the bars {birth: death} of both masks and the matches {birth: birth}."""
    union = prediction | label
    found = []
    for pair in PAIRINGS:
        in_union = [{death: birth for birth, death in pair(union, part).items()} for part in (prediction, label)]
        of_union = set(pair(union, union).values())
        common = set(in_union[0]) & set(in_union[1]) & of_union
        matches = {in_union[0][death]: in_union[1][death] for death in common}
        found.append((pair(prediction, prediction), pair(label, label), matches))
    return found


def count_matches(prediction, label):
    """Return the (3, 3) counts of one block."""
    return np.array([[len(m), len(p), len(g)] for p, g, m in match_features(prediction, label)])


def euler_characteristic(mask):
    """Count the foreground cells with alternating signs."""
    kinds = ([((0, 0, 0),)], EDGES, SQUARES, CUBES)
    return sum(
        (-1) ** dimension * sum(cell_value(mask, voxels) == 0 for _, voxels in list_cells(mask.shape, kind))
        for dimension, kind in enumerate(kinds)
    )


def label_components(mask, connectivity):
    """Number components by flooding, in raster order of their first voxels."""
    reach = {6: 1, 26: 3}[connectivity]
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, s)) <= reach]
    labels = np.zeros(mask.shape, dtype=int)
    count = 0
    for start in itertools.product(*map(range, mask.shape)):
        if not mask[start] or labels[start]:
            continue
        count += 1
        labels[start] = count
        todo = [start]
        while todo:
            voxel = todo.pop()
            for step in steps:
                near = tuple(c + d for c, d in zip(voxel, step))
                inside = all(0 <= c < size for c, size in zip(near, mask.shape))
                if inside and mask[near] and not labels[near]:
                    labels[near] = count
                    todo.append(near)
    return labels, count


def variation_of_information(prediction, label):
    """Return (split, merge) in bits."""
    labels = [label_components(mask, 26)[0] for mask in (prediction, label)]
    pairs = [(a, b) for a, b in zip(labels[0].flat, labels[1].flat) if a or b]
    total = len(pairs)
    joint = Counter(pairs)
    by_prediction = Counter(a for a, _ in pairs)
    by_label = Counter(b for _, b in pairs)
    split = sum(n / total * math.log2(by_label[b] / n) for (_, b), n in joint.items())
    merge = sum(n / total * math.log2(by_prediction[a] / n) for (a, _), n in joint.items())
    return split, merge


def dilate(mask, radius, spacing):
    """Mark every voxel within ``radius`` of the mask."""
    found = np.zeros_like(mask)
    points = np.argwhere(mask)
    for voxel in itertools.product(*map(range, mask.shape)):
        away = np.sqrt((((np.array(voxel) - points) * spacing) ** 2).sum(axis=1))
        found[voxel] = bool((away <= radius).any())
    return found


def surface_dice(prediction, label, tolerance, spacing, areas):
    """Compare the surface elements one by one; ``areas`` is indexed by bit 4 z + 2 y + x."""
    surfaces = []
    for mask in (prediction, label):
        padded = np.pad(mask, 1)
        elements = {}
        for z, y, x in itertools.product(*(range(size + 1) for size in mask.shape)):
            code = sum(1 << (4 * a + 2 * b + c) for a, b, c in CUBES[0] if padded[z + a, y + b, x + c])
            if 0 < code < 255:
                elements[z, y, x] = areas[code]
        surfaces.append(elements)
    if not any(surfaces):
        return 1.0
    near = 0.0
    for own, other in (surfaces, surfaces[::-1]):
        points = np.array(list(other)).reshape(-1, 3)
        for element, area in own.items():
            away = np.sqrt((((np.array(element) - points) * spacing) ** 2).sum(axis=1))
            near += area * bool((away <= tolerance).any())
    return near / sum(sum(elements.values()) for elements in surfaces)
