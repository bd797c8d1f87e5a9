"""Files of any kind: read by position, checked, and written complete or not at all."""
