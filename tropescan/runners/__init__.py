"""Hosts around a Scanner. They are peers and never import each other."""
