"""How much quantising costs: formats and importance studied, files run in lockstep and compared."""
