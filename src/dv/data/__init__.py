"""Reading and making the pictures of one object."""
