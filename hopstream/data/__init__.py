"""Data sets: the sample catalogue and the readers of files in the formats that recommendation research uses."""
