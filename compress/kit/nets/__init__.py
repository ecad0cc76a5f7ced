"""Networks and the blocks they are built of."""
