"""Runtimes to measure: this project and its peers, a file each, behind small interfaces."""
