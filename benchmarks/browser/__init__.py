"""One fresh real browser with one page that loads one model and runs it when told."""
