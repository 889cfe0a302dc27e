"""Files of other programs, read and written a block at a time: npz, mp4 with a CSV of actions, Minari datasets."""
