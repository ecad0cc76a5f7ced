"""Pictures by index: folders and files as published, made-up sets, batches for training."""
