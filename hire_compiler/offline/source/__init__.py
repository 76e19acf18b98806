"""What comes in: an export in any of its forms, its arguments by name, its weights, its devices."""
