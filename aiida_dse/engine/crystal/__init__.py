"""Crystals: cell, symmetry and sites; split sites; bonds, angles and reflections."""
