"""What the page shows, and what it may ask for."""
