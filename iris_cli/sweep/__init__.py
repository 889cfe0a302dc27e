"""One pipeline over many games and seeds, on one machine or many: a folder, and engines that fill it."""
