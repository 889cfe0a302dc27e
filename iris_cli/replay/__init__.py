"""Experience on disk and on the training device."""
