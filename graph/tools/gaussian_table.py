#!/usr/bin/env python3
"""Prints graph/src/noise/table.rs: the inverse of the normal distribution in pieces of degree two.

Usage: python3 graph/tools/gaussian_table.py > graph/src/noise/table.rs

The upper tail is h / 2^33 for an odd h < 2^32. Row 16 k + j covers h in 2^(31-k) * [1 + j/16, 1 + (j+1)/16): one of
16 equal pieces of an octave. With u in [-1, 1) across the piece, z = c0 + c1 u + c2 u^2 in units of 2^-28, fitted at
the three Chebyshev nodes, which is within a few per cent of the best fit.
"""

from math import sqrt
from statistics import NormalDist

PIECES = 16
UNIT = 2.0**28


def quantile(tail):
    """z with the probability `tail` above it."""
    return -NormalDist().inv_cdf(tail)


def row(octave, piece):
    """Coefficients of one piece."""
    width = 2.0 ** (-2 - octave) / PIECES
    middle = 2.0 ** (-2 - octave) + width * (piece + 0.5)
    node = sqrt(3) / 2
    below, centre, above = (quantile(middle + u * width / 2) for u in (-node, 0.0, node))
    slope = (above - below) / (2 * node)
    bend = (above + below - 2 * centre) / (2 * node**2)
    return [round(c * UNIT) for c in (centre, slope, bend)]


def main():
    rows = [row(octave, piece) for octave in range(32) for piece in range(PIECES)]
    print("// Printed by graph/tools/gaussian_table.py.\n")
    print("/// Coefficients of 1, u and u² for each piece, in units of 2⁻²⁸.")
    print("#[rustfmt::skip]")
    print(f"pub(super) static ROWS: [[i32; 3]; {len(rows)}] = [")
    for start in range(0, len(rows), 3):
        print("    " + " ".join(f"[{a}, {b}, {c}]," for a, b, c in rows[start : start + 3]))
    print("];")


main()
