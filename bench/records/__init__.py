"""What was measured: written down, read back, and shown as tables and plots."""
