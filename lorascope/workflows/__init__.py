"""Short readable recipes that join the rooms: what each command does, in the order it does it."""
