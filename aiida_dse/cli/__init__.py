"""Command-line interfaces. No other subpackage imports this one."""
