"""HOST: what is done with profiles once they are made: kept, compared, shown, and chosen from."""
