"""Parsers of CalcJobs."""
