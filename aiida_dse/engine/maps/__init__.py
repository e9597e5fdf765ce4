"""GoF maps: axes, grids, scans, adaptive grids and minima."""
