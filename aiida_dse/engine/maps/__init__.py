"""GoF maps: axes, grids, scans and minima."""
