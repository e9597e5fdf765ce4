"""GoF maps: axes, grids, scans, their minima."""
