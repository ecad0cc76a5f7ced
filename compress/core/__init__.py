"""Floor 0: records, rooms, errors, store, machine and console; standard library only (rich is drawn lazily)."""
