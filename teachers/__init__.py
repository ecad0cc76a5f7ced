"""Teachers: networks to compress, one file each; the file name is the name."""
