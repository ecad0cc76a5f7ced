"""Students: the small networks that ship, one file each; the file name is the name."""
