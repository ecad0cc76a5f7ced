"""Reports: what compression cost, as one page, made from the store alone. A report never measures."""
